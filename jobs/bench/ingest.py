"""Ingest of a folder of Parquet files with one worker and with two, side by side in one run, each in a fresh Ray.

    python -m jobs.bench.ingest --files 16 --posts 20000 --rounds 3

Ray's start-up is left out; that of the workers is in. `load` is the machine's over the last minute: the figures count
where it stays below the number of cores.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.config import build_config
from smp_ray.pipeline import open_run, run_stages

COLUMNS = {
    "post_id": "id", "user_id": "user", "title": "title", "tags": "tags", "posted_at": "time", "latitude": "lat",
    "longitude": "lon", "category": "category", "popularity": "score", "user_followers": "followers",
}  # fmt: skip


def main() -> None:
    """Ingest the same files with one and two workers in turn, and print posts a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--posts", type=int, default=20_000, help="of each file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "WORKERS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        ingest(Path(given.one[0]), int(given.one[1]))
        return
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="smp_ray_benchmark_") as folder:
        for number in range(given.files):
            write_table(Path(folder) / f"{number:03d}.parquet", number * given.posts, given.posts)
        for turn in range(given.rounds):
            for workers in (1, 2) if turn % 2 == 0 else (2, 1):
                command = [sys.executable, __file__, "--one", folder, str(workers)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                seconds, megabytes = map(float, done.stdout.split())
                rates[workers].append(given.files * given.posts / seconds)
                print(
                    f"{workers} worker(s): {rates[workers][-1]:,.0f} posts/s, driver {megabytes:.0f} MB at most, "
                    f"load {os.getloadavg()[0]:.1f}"
                )
    one, two = (statistics.median(rates[workers]) for workers in (1, 2))
    print(f"median: {one:,.0f} and {two:,.0f} posts/s, {two / one:.2f} times as fast with two workers")


def ingest(folder: Path, workers: int) -> None:
    """Ingest in this process's Ray of so many CPUs; prints seconds and the driver's peak of memory in MB."""
    with tempfile.TemporaryDirectory(prefix="smp_ray_benchmark_") as workspace:
        source = {"kind": "table", "path": str(folder), "columns": COLUMNS}
        run = open_run(build_config({"workspace": workspace, "source": source, "ray": {"num_cpus": workers}}))
        run.session.start()
        began = time.monotonic()
        run_stages(run, ["ingest"])
        print(time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        run.session.close()


def write_table(path: Path, first: int, posts: int) -> None:
    """A table of made-up posts without pictures."""
    rows = range(first, first + posts)
    columns = {
        "id": [str(10**10 + row) for row in rows],
        "user": [f"user {row % 977}" for row in rows],
        "title": [f"a made-up title of the post {row}" for row in rows],
        "tags": [f"summer sea number{row % 11}" for row in rows],
        "time": [1_690_000_000 + row for row in rows],
        "lat": [48.5] * posts,
        "lon": [2.25] * posts,
        "category": ["travel"] * posts,
        "score": [float(row % 17) for row in rows],
        "followers": [row % 1000 for row in rows],
    }
    pq.write_table(pa.table(columns), path)


if __name__ == "__main__":
    main()
