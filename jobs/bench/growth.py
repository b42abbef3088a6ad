"""How rows a second and the driver's memory grow with the number of posts, from ingest to status.

    python -m jobs.bench.growth --posts 100000 1000000
    python -m jobs.bench.growth --sleeping 1 2 4 8 16
    python -m jobs.bench.growth --raylets 1 2

A table of posts without pictures in Parquet files of 100,000 each; one family that costs next to nothing (the letters
of the title), so that what counts is everything around the models. Each number of posts runs in a process of its own.
With `--sleeping` so many workers have a family that sleeps 50 ms a post; the ideal is 20 posts/s for each of them.
With `--raylets` two workers embed 4,000 sample posts by CLIP on a cluster of so many nodes on this machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.bench.packages import FAMILIES, finding, install

if TYPE_CHECKING:
    from smp_ray.config import Config

FILE_ROWS = 100_000
FAMILY = '''"""The letters of a title."""

import pyarrow as pa

from smp_ray.families.base import TITLE, Column, Family, FamilySettings


class Letters(Family):
    """How long a title is."""

    name = "letters"
    Settings = FamilySettings
    reads = (TITLE,)
    columns = (Column("title_letters", pa.int32(), group="letters"),)

    def __init__(self, settings, device, threads):
        pass

    def compute(self, titles):
        return {"title_letters": [len(title) for title in titles]}
'''


#: Seconds that a sleeping family takes for a post, and posts for each worker.
SLEEP, SLEPT = 0.05, 400
SLEEPING = FAMILY.replace("import pyarrow as pa", "import time\n\nimport pyarrow as pa").replace(
    "        return", f"        time.sleep({SLEEP} * len(titles))\n        return"
)


def write_posts(folder: Path, posts: int) -> None:
    """Files of posts with distinct titles."""
    folder.mkdir(parents=True)
    names = ["id", "user", "title", "likes"]
    for number, start in enumerate(range(0, posts, FILE_ROWS)):
        numbers = np.arange(start, min(start + FILE_ROWS, posts))
        titles = [f"a red boat by the sea, number {one}" for one in numbers]
        columns = [numbers.astype(str), (numbers % 9973).astype(str), titles, np.log1p(numbers % 1000)]
        pq.write_table(pa.table(columns, names=names), folder / f"part-{number:05d}.parquet")


def configured(folder: Path, features: dict[str, Any] | None = None, ray: dict[str, Any] | None = None) -> Config:
    """The posts of `write_posts` and the family of letters."""
    from smp_ray.config import build_config

    columns = {"post_id": "id", "user_id": "user", "title": "title", "popularity": "likes"}
    source = {"kind": "table", "path": str(folder / "posts"), "columns": columns}
    features = {"families": ["letters"], **(features or {})}
    return build_config({"workspace": str(folder / "run"), "source": source, "features": features, "ray": ray or {}})


def measure(folder: Path, posts: int) -> None:
    """Run the stages and print what each took."""
    from smp_ray.config import RayConfig
    from smp_ray.pipeline import export, open_run, run_stages
    from smp_ray.ray_session import ray_session
    from smp_ray.stage import status

    config = configured(folder)
    with ray_session(RayConfig()) as session:
        began = time.perf_counter()
        session.start()
        print(f"{posts:,} posts: Ray started in {time.perf_counter() - began:.1f} s", flush=True)
        for name, step in {
            "ingest": lambda: run_stages(open_run(config, session), ["ingest"]),
            "features": lambda: run_stages(open_run(config, session), ["features"]),
            "export": lambda: export(open_run(config, session), f"{folder}/export/"),
            "status": lambda: status(open_run(config, session)),
        }.items():
            began = time.perf_counter()
            step()
            seconds = time.perf_counter() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            print(
                f"{posts:,} posts: {name:<8} {seconds:8.1f} s {posts / seconds:12,.0f} rows/s, driver at most "
                f"{peak:,.0f} MB",
                flush=True,
            )
    rows = sum(pq.read_metadata(path).num_rows for path in (folder / "export").glob("*.parquet"))
    assert rows == posts, f"exported {rows:,} of {posts:,} posts"


def sleep(folder: Path, workers: int) -> None:
    """Run a pass of workers that sleep, and print its rate against the ideal."""
    from smp_ray.features.store_stage import stored
    from smp_ray.pipeline import open_run, run_stages
    from smp_ray.ray_session import ray_session

    config = configured(folder, {"workers": workers}, {"num_cpus": workers + 4})
    with ray_session(config.ray) as session:
        run = open_run(config, session)
        run_stages(run, ["features"])
    (manifest,) = stored(run).values()
    rate, ideal = manifest.details["last_pass"]["rows_per_second_steady"], workers / SLEEP
    print(f"{workers} sleeping workers: {rate:.1f} posts/s steady, {rate / ideal:.3f} of the ideal", flush=True)


def on_raylets(count: int, folder: Path) -> None:
    """Run a pass on a rehearsed cluster of so many nodes, and print its rate."""
    from cluster.rehearse import Node, Rehearsal

    sets = ["source.posts=4000", "features.families=[clip]", "features.workers=2"]
    command = [sys.executable, "-m", "smp_ray.cli", "features", "configs/demo.yaml", "--workspace", str(folder / "run")]
    with Rehearsal([Node(4 / count)] * count) as cluster:
        called = [*command, *(word for one in sets for word in ("--set", one))]
        began = time.perf_counter()
        subprocess.run(called, check=True, env=cluster.env, capture_output=True)
        seconds = time.perf_counter() - began
    (manifest,) = (folder / "run" / "features" / "clip").glob("*/manifest.json")
    rate = json.loads(manifest.read_text())["details"]["last_pass"]["rows_per_second_steady"]
    print(f"{count} raylets: {rate:.1f} posts/s steady, {seconds:.1f} s in all", flush=True)


def main() -> None:
    """Measure each number of posts in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, nargs="+", default=[])
    parser.add_argument("--sleeping", type=int, nargs="+", default=[], metavar="WORKERS")
    parser.add_argument("--raylets", type=int, nargs="+", default=[], metavar="NODES")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not (given.posts or given.sleeping or given.raylets):
        parser.error("say what: --posts, --sleeping or --raylets")
    if given.folder:
        for workers in given.sleeping:
            sleep(given.folder, workers)
        for posts in given.posts:
            measure(given.folder, posts)
        return
    for count in given.raylets:
        with tempfile.TemporaryDirectory(prefix="smp_ray_growth_") as name:
            on_raylets(count, Path(name))
    for kind, numbers, each, code in (
        ("--posts", given.posts, 1, FAMILY),
        ("--sleeping", given.sleeping, SLEPT, SLEEPING),
    ):
        for number in numbers:
            with tempfile.TemporaryDirectory(prefix="smp_ray_growth_") as name:
                folder = Path(name)
                write_posts(folder / "posts", number * each)
                site = install(folder / "site", code, FAMILIES, "letters", "letters_family:Letters")
                command = [sys.executable, __file__, kind, str(number), "--folder", name]
                subprocess.run(command, check=True, env=finding(site))


if __name__ == "__main__":
    main()
