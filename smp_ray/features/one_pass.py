"""One pass over the posts for all families that lack some: survey, compute, check, publish.

What the store holds is counted in Ray tasks, never on the driver.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from smp_ray.errors import FeaturePassError
from smp_ray.families.registry import find, owner_of
from smp_ray.features.actors import PassSpec, PassStats
from smp_ray.features.feature_pass import CHECKPOINT, mend, run_pass, written
from smp_ray.features.placement import Resources, place
from smp_ray.features.store_stage import counted
from smp_ray.progress import Reporter, polled, say
from smp_ray.run import Run
from smp_ray.schema import ERROR, KEYS, STATUSES
from smp_ray.store.manifest import Fragment, Manifest, fingerprint
from smp_ray.store.reader import FAMILIES, index_of, post_row_ids, read_columns, statuses_of
from smp_ray.store.workspace import Workspace

MISSING = "missing"


def compute(
    run: Run, posts: Manifest, manifests: dict[str, Manifest], missing: list[str], began: float
) -> dict[str, Manifest]:
    """Bring the missing families up to date with the posts artefact, where Ray runs already.

    Takes the manifests of those configured families that have one, and returns that of every one. Times count from
    `began` (by `time.monotonic`).

    Raises:
        FeaturePassError: the pass broke off; running again goes on from what was kept.
    """
    widths = {name: find(name).width(run.families[name].pinned) for name in missing}
    before = {name: manifests[name].fragments if name in manifests else [] for name in missing}
    again = {MISSING, ERROR, *run.retry}
    task: Any = ray.remote(num_cpus=0.25, num_returns=2)(survey)  # so that what is known belongs to the driver
    found, known = task.remote(run.workspace, posts, before, again, manifests)
    todo = {name: sum(counts.get(status, 0) for status in again) for name, counts in ray.get(found).items()}
    say(f"features: {counted(todo)} to compute, of {posts.rows:,} posts")
    state = {name: [run.families[name].fingerprint, [file.path for file in files]] for name, files in before.items()}
    folder = f"{FAMILIES}/passes/{fingerprint('pass', posts.fingerprint, state, list(run.retry))}"
    kept, most = mend(run.workspace, folder), max(todo.values())
    if kept:
        say(f"features: going on from an interrupted run: {kept:,} posts kept, not computed again")
    stats = _compute(run, posts, folder, widths, known, kept, most, began) if most else PassStats(0).snapshot()
    files = written(run.workspace, folder)
    fragments = {name: [*old, *files] for name, old in before.items()}
    covered: dict[str, dict[str, int]] = ray.get(task.remote(run.workspace, posts, fragments)[0])
    if lost := {name: counts[MISSING] for name, counts in covered.items() if MISSING in counts}:
        path = run.workspace.path(folder)
        raise FeaturePassError(f"after the pass {counted(lost)} have no row; delete {path} and run again")
    wall = time.monotonic() - began
    for name, width in widths.items():
        key = run.families[name]
        earlier = manifests[name].details["covers"] if name in manifests else {}
        covers = {**earlier, posts.fingerprint: covered[name]}
        columns = [field.name for field in find(name).fields(width)]
        same = name in manifests and fragments[name] == manifests[name].fragments
        content = {"content": manifests[name].content} if same else {}
        made = Manifest(
            stage=key.folder, fingerprint=key.fingerprint, config=key.settings, models={name: key.model},
            inputs=key.inputs, rows=posts.rows, counts=covered[name], wall_seconds=round(wall, 3),
            rows_per_second=round(stats["computed"] / wall, 3), fragments=fragments[name],
            details={"covers": covers, "columns": columns, "last_pass": stats, "width": width, **content},
        )  # fmt: skip
        manifests[name] = run.workspace.commit(made)
    run.workspace.delete_dir(folder, CHECKPOINT)
    run.computed = {name: count for name, count in todo.items() if count}
    rate, first = stats["rows_per_second_steady"], stats["first_batch_seconds"]
    speed = f", {rate:.1f} posts/s after a first batch at {first:.1f} s" if rate else ""
    say(f"features: {most - kept:,} posts computed{speed}")
    return {name: manifests[name] for name in run.families}


def survey(
    workspace: Workspace,
    posts: Manifest,
    fragments: Mapping[str, list[Fragment]],
    again: Iterable[str] = (),
    stored: Mapping[str, Manifest] | None = None,
) -> tuple[dict[str, dict[str, int]], pa.Table]:
    """What is there of some families, by the files that hold each.

    Returns:
        Posts by status of each family, those without a row as `MISSING`; and a table with a row a post, sorted by
        `row_id`: `need_<family>`, whether its status is among `again`, and what the families read of `stored` ones.
    """
    ids = np.sort(post_row_ids(workspace, posts))
    known = pa.table({"row_id": ids})
    names = (MISSING, *STATUSES)
    found: dict[str, dict[str, int]] = {}
    for family, files in fragments.items():
        codes = statuses_of(index_of(workspace, family, files), ids) + 1
        found[family] = {names[code]: count for code, count in enumerate(np.bincount(codes).tolist()) if count}
        need = np.isin(codes, [names.index(status) for status in again])
        known = known.append_column(f"need_{family}", pa.array(need))
    for column in dict.fromkeys(column for family in fragments for column in find(family).reads):
        if (manifest := (stored or {}).get(owner_of(column) or "")) is not None:
            known = known.append_column(column, read_columns(workspace, manifest, [column], ids)[column])
    return found, known


def _compute(
    run: Run, posts: Manifest, folder: str, widths: dict[str, int], known: Any, kept: int, most: int, began: float
) -> dict[str, Any]:
    """Run the pass where it has not been yet, show how far it is, and return what its workers counted."""
    settings, total = run.config.features, ray.cluster_resources()
    has = Resources(cpus=total.get("CPU", 0.0), gpus=total.get("GPU", 0.0), cores=run.session.cores)
    placement = place(settings, tuple(widths), has)
    say(f"features: {placement.describe()}")
    counter: Any = ray.remote(num_cpus=0)(PassStats).remote(time.monotonic() - began)
    schema = pa.schema([*KEYS, *(field for name, width in widths.items() for field in find(name).fields(width))])
    spec = PassSpec(settings.images, tuple(run.families[name] for name in widths), schema, known, counter)

    def ask() -> tuple[int, int | None, str]:
        now = ray.get(counter.snapshot.remote(), timeout=30)
        rate = now["rows_per_second_steady"]
        waiting = "computing" if now["computed"] else "starting workers, loading models"
        return min(most, kept + now["computed"]), most, f"{rate:.1f} posts/s" if rate else waiting

    with Reporter("features") as reporter, polled(reporter, ask):
        run_pass(spec, placement, posts, run.workspace, folder, settings.rows_per_block)
    return dict(ray.get(counter.snapshot.remote()))
