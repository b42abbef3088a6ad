"""Any command of `smp-ray` as a job, `run` where none is named.

ray job submit --working-dir . -- python jobs/run.py --config CONFIG
ray job submit --working-dir . -- python jobs/run.py features --config CONFIG
"""

from smp_ray.cli import job

if __name__ == "__main__":
    job()
