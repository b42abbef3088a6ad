"""Who computes a case, each in processes of its own: the models alone, the Ray pass, one post after the other.

The limit is what two processes of one thread each reach that do nothing but decode, transform and run the models, by
the very classes of `smp_ray.families`, the best batch of a few. What it counts begins when both have finished a batch.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from jobs.bench.cases import CASES, Case, read_posts, sections
from smp_ray.config import build_config
from smp_ray.families.base import IMAGE, TITLE
from smp_ray.families.registry import find
from smp_ray.features.store_stage import stored
from smp_ray.models.images import decode
from smp_ray.pipeline import export, open_run, run_stages
from smp_ray.ray_session import ray_session

PROCESSES = 2
#: Batches that the limit is tried with, in parts of the posts that it computes for each.
BATCHES, TRIED = (8, 32), 0.25


def limit(case: str, posts: Path, models: Path, out: Path) -> dict[str, float]:
    """Two processes of one thread."""
    del out
    started = time.time()
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(PROCESSES), context.Queue()
    given = (case, posts, models, barrier, queue)
    processes = [context.Process(target=_alone, args=(number, *given)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    found = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    begins, ends, counts = zip(*found, strict=True)
    return {"rate": sum(counts) / (max(ends) - min(begins)), "first": min(begins) - started}


def _alone(number: int, case: str, posts: Path, models: Path, barrier: Barrier, queue: Any) -> None:
    """One of the limit's processes: finds its best batch, and computes every second post."""
    pictures, titles = read_posts(posts)
    mine = list(zip(pictures, titles, strict=True))[number::PROCESSES]
    compute = computing(CASES[case], models, threads=1)
    compute(mine[: min(BATCHES)])
    rates = {}
    tried = mine[: max(BATCHES[-1], int(len(mine) * TRIED))]
    for size in BATCHES:
        barrier.wait()
        began = time.perf_counter()
        for some in in_batches(tried, size):
            compute(some)
        rates[size] = len(tried) / (time.perf_counter() - began)
    barrier.wait()
    began = time.time()
    for some in in_batches(mine, max(rates, key=lambda size: rates[size])):
        compute(some)
    queue.put((began, time.time(), len(mine)))


def in_batches(posts: list[Any], size: int) -> list[list[Any]]:
    """Consecutive parts of at most `size`."""
    return [posts[start : start + size] for start in range(0, len(posts), size)]


def computing(case: Case, models: Path, threads: int) -> Callable[[list[tuple[Path, str]]], None]:
    """What decodes some pictures and computes all families of a case from them and the titles, in this process."""
    import torch

    torch.set_num_threads(threads)
    given, parts = sections(models, case), []
    for name in case.families:
        family = find(name)
        settings = family.Settings(**given[family.key()])
        transform = family.transform(settings) if IMAGE in family.reads else None
        parts.append((family(settings, "cpu", threads), transform))

    def compute(posts: list[tuple[Path, str]]) -> None:
        found: dict[str, Any] = {TITLE: [title for _, title in posts]}
        looks = any(transform for _, transform in parts)
        images = [decode(path.read_bytes(), 10**8) for path, _ in posts] if looks else []
        for model, transform in parts:
            if transform is not None:
                found[IMAGE] = [transform.pixels(image) for image in images]
            found |= model.compute(*(found.get(name, [None] * len(posts)) for name in model.reads))

    return compute


def one_at_a_time(case: str, posts: Path, models: Path, out: Path) -> dict[str, float]:
    """One process with two torch threads, one post after the other; a quarter of the posts are enough for a rate."""
    del out
    started = time.perf_counter()
    pictures, titles = read_posts(posts)
    every = list(zip(pictures, titles, strict=True))
    compute = computing(CASES[case], models, threads=PROCESSES)
    compute(every[:1])
    began = time.perf_counter()
    some = every[1 : 1 + max(8, len(every) // 4)]
    for post in some:
        compute([post])
    return {"rate": len(some) / (time.perf_counter() - began), "first": began - started}


def smp_ray(case: str, posts: Path, models: Path, out: Path) -> dict[str, float]:
    """`smp-ray features` from a table of image files into a fresh workspace, and the export of what it computed."""
    config = build_config(
        {
            "workspace": str(out / "run"),
            "source": {
                "kind": "table",
                "path": str(posts / "posts.csv"),
                "columns": {"post_id": "id", "image": "image", "title": "title"},
            },
            "features": {"families": list(CASES[case].families), **sections(models, CASES[case])},
        }
    )
    with ray_session(config.ray) as session:
        run = open_run(config, session)
        run_stages(run, ["features"])
        stats = next(iter(stored(run).values())).details["last_pass"]
        export(run, str(out / "features.parquet"))
    return {"rate": stats["rows_per_second_steady"] or 0.0, "first": stats["first_batch_seconds"]}


CONTENDERS = {"limit": limit, "smp_ray": smp_ray, "one_at_a_time": one_at_a_time}
