"""One pass over the posts for all families that lack some: survey, compute, check, publish."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from smp_ray.errors import FeaturePassError
from smp_ray.families.keys import FamilyKey
from smp_ray.families.registry import find
from smp_ray.features.store_stage import counted
from smp_ray.progress import Reporter, polled, say
from smp_ray.run import Run
from smp_ray.schema import ERROR, KEYS
from smp_ray.store.manifest import Fragment, Manifest, fingerprint
from smp_ray.store.reader import FAMILIES

if TYPE_CHECKING:
    from smp_ray.features.feature_pass import PassFolder

PASSES = f"{FAMILIES}/passes"


def compute(run: Run, posts: Manifest, manifests: dict[str, Manifest], missing: list[str]) -> dict[str, Manifest]:
    """Bring the missing families up to date with the posts artefact.

    Args:
        run: the command's run.
        posts: the committed posts artefact.
        manifests: of the configured families, those that there are.
        missing: families that lack posts, or have some to be computed again.

    Returns:
        The manifest of every configured family.

    Raises:
        FeaturePassError: the pass broke off; running again goes on from what was kept.
    """
    began = time.monotonic()  # starting Ray counts
    keys = [run.families[name] for name in missing]
    widths = {key.family: find(key.family).width(key.pinned) for key in keys}
    before = {name: manifests[name].fragments if name in manifests else [] for name in missing}
    run.session.start()
    import ray

    from smp_ray.features.feature_pass import PassFolder
    from smp_ray.features.survey import carried_columns, survey

    task: Any = ray.remote(num_cpus=0.25, num_returns=2)(survey)  # so that what is known belongs to the driver
    carried = carried_columns(missing, manifests)
    counts, known = task.remote(run.workspace, posts, before, (ERROR, *run.retry), carried)
    todo: dict[str, int] = ray.get(counts)
    most = max(todo.values())
    say(f"features: {counted(todo)} to compute, of {posts.rows:,} posts")
    folder = PassFolder(run.workspace, f"{PASSES}/{_pass_id(run, posts, before)}")
    kept, stats = folder.mend(), {}
    if kept:
        say(f"features: going on from an interrupted run: {kept:,} posts kept, not computed again")
    if most:
        stats = _compute(run, posts, folder, widths, known, most, kept, began)
    fragments = {name: [*files, *folder.fragments()] for name, files in before.items()}
    covered = _covered(run, posts, fragments, folder)
    wall = time.monotonic() - began
    for key in keys:
        name = key.family
        made = _manifest(key, posts, fragments[name], covered[name], widths[name], stats, wall, manifests.get(name))
        manifests[name] = run.workspace.commit(made)
    run.workspace.delete_dir(folder.checkpoint)
    run.computed = {name: count for name, count in todo.items() if count}
    steady = stats.get("rows_per_second_steady")
    speed = f", {steady:.1f} posts/s after a first batch at {stats['first_batch_seconds']:.1f} s" if steady else ""
    say(f"features: {most - kept:,} posts computed{speed}")
    return {name: manifests[name] for name in run.families}


def _pass_id(run: Run, posts: Manifest, before: Mapping[str, list[Fragment]]) -> str:
    state = {name: [run.families[name].fingerprint, [file.path for file in files]] for name, files in before.items()}
    return fingerprint("pass", posts.fingerprint, state, list(run.retry))


def _compute(
    run: Run,
    posts: Manifest,
    folder: PassFolder,
    widths: dict[str, int],
    known: Any,
    todo: int,
    kept: int,
    began: float,
) -> dict[str, Any]:
    """Run the pass where it has not been yet; what its workers counted."""
    import ray

    from smp_ray.features.actors import PassSpec
    from smp_ray.features.feature_pass import cluster_resources, rows_per_block, run_pass
    from smp_ray.features.placement import place
    from smp_ray.features.stats import PassStats

    settings = run.config.features
    placement = place(settings, tuple(widths), cluster_resources(run.session.cores))
    say(f"features: {placement.describe()}")
    workers = max(pool.max_actors for pool in placement.pools)
    block = rows_per_block(posts.rows, settings.rows_per_block, workers)
    started = time.monotonic() - began
    counter: Any = ray.remote(num_cpus=0)(PassStats).remote()
    schema = pa.schema([*KEYS, *(field for name, width in widths.items() for field in find(name).fields(width))])
    spec = PassSpec(settings.images, tuple(run.families[name] for name in widths), schema, known, counter)
    with _shown(counter, todo, kept):
        run_pass(spec, placement, posts, folder, block)
    return {**ray.get(counter.snapshot.remote()), "started_after_seconds": started}


def _covered(
    run: Run, posts: Manifest, fragments: Mapping[str, list[Fragment]], folder: PassFolder
) -> dict[str, dict[str, int]]:
    """Posts by status of each family, if every post has its row."""
    import ray

    from smp_ray.features.survey import check

    found: dict[str, dict[str, int]] = ray.get(
        ray.remote(num_cpus=0.25)(check).remote(run.workspace, posts, fragments)
    )  # fmt: skip
    lost = {name: counts["missing"] for name, counts in found.items() if "missing" in counts}
    if lost:
        path = run.workspace.path(folder.path)
        raise FeaturePassError(f"after the pass {counted(lost)} have no row; delete {path} and run again")
    return found


def _manifest(
    key: FamilyKey,
    posts: Manifest,
    fragments: list[Fragment],
    counts: dict[str, int],
    width: int,
    stats: dict[str, Any],
    wall: float,
    old: Manifest | None,
) -> Manifest:
    covers = old.details["covers"] if old else {}
    details = {
        "covers": {**covers, posts.fingerprint: counts},
        "columns": [column.name for column in find(key.family).fields(width)],
        "last_pass": {**stats, "posts": posts.fingerprint},
        "width": width,
    }
    return Manifest(
        stage=key.folder, fingerprint=key.fingerprint, config=key.settings, models={key.family: key.model},
        inputs=key.inputs, rows=posts.rows, counts=counts, wall_seconds=round(wall, 3),
        rows_per_second=round(stats.get("rows", {}).get("posts", 0) / wall, 3), fragments=fragments, details=details,
    )  # fmt: skip


@contextmanager
def _shown(counter: Any, todo: int, kept: int) -> Iterator[None]:
    """Show what the workers report while the pass runs."""
    import ray

    def ask() -> tuple[int, int | None, str]:
        now = ray.get(counter.snapshot.remote(), timeout=30)
        rate = now["rows_per_second_steady"]
        waiting = "computing" if now["loads"] else "starting workers, loading models"
        note = f"{rate:.1f} posts/s" if rate else waiting
        return min(todo, kept + now["rows"].get("posts", 0)), todo, note

    with Reporter("features") as reporter, polled(reporter, ask):
        yield
