"""`smp-ray report CONFIG` as a job: `ray job submit --working-dir . -- python jobs/report.py --config CONFIG`."""

from smp_ray.cli import job

if __name__ == "__main__":
    job("report")
