"""`smp-ray tune CONFIG` as a job: `ray job submit --working-dir . -- python jobs/tune.py --config CONFIG`."""

from smp_ray.cli import job

if __name__ == "__main__":
    job("tune")
