"""One pass over the posts for all families that lack some: take over what earlier passes wrote, compute, publish.

What the store holds is counted in Ray tasks, never on the driver.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from smp_ray.errors import FeaturePassError, LostNodesError, SmpRayError, UnreachableError, one_line
from smp_ray.families.base import IMAGE
from smp_ray.families.keys import FamilyKey
from smp_ray.families.registry import find, owner_of
from smp_ray.features.actors import PassSpec
from smp_ray.features.feature_pass import begin_pass, forget_unreachable, run_pass, written
from smp_ray.features.ledger import asked, start_ledger
from smp_ray.features.placement import place
from smp_ray.features.store_stage import counted
from smp_ray.features.watch import enough_nodes
from smp_ray.progress import Reporter, polled, say
from smp_ray.run import Run
from smp_ray.schema import ERROR, KEYS, KILLED_TWICE, STATUSES
from smp_ray.store.join import locate_sorted
from smp_ray.store.manifest import Fragment, Manifest, fingerprint
from smp_ray.store.reader import index_of, iter_posts, passes_of, post_row_ids, read_columns, statuses_of
from smp_ray.store.workspace import Workspace

MISSING = "missing"
#: Seconds between two looks for files that a running pass has finished.
PUBLISH_EVERY = 60.0
NOTHING: dict[str, Any] = {
    "computed": 0, "first_batch_seconds": None, "rows_per_second_steady": None, "notes": [], "ready": 0, "steps": {},
}  # fmt: skip


def compute(
    run: Run, posts: Manifest, manifests: dict[str, Manifest], missing: list[str], began: float
) -> dict[str, Manifest]:
    """Bring the missing families up to date with the posts artefact, where Ray runs already.

    Takes the manifests of those configured families that have one, and returns that of every one. Times count from
    `began` (by `time.monotonic`).

    Raises:
        FeaturePassError: the pass broke off; running again goes on from what was kept.
    """
    keys = {name: run.families[name] for name in missing}
    manifests |= {name: _publish(run.workspace, key, ended=True) for name, key in keys.items()}
    before = {name: manifests[name].fragments for name in missing}
    again = {MISSING, ERROR, *run.retry} | ({KILLED_TWICE} if ERROR in run.retry else set())
    task: Any = ray.remote(num_cpus=0.25, num_returns=2)(survey)  # so that what is known belongs to the driver
    stored = {name: manifest for name, manifest in manifests.items() if manifest.fragments}
    found, known = task.remote(run.workspace, posts, before, again, stored)
    there: dict[str, dict[str, int]] = ray.get(found)
    todo = {name: sum(counts.get(status, 0) for status in again) for name, counts in there.items()}
    kept = {name: posts.rows - counts.get(MISSING, 0) for name, counts in there.items()}
    say(f"features: {counted(todo)} to compute, of {posts.rows:,} posts")
    if any(0 < count < posts.rows for count in kept.values()):
        say(f"features: {counted(kept)} posts kept from before")
    try:
        stats = _compute(run, posts, keys, known, max(todo.values()), began) if any(todo.values()) else NOTHING
    except LostNodesError as error:
        say(f"features: {error}")
        return compute(run, posts, manifests, missing, began)
    wall = time.monotonic() - began
    manifests |= {name: _publish(run.workspace, key, ended=True) for name, key in keys.items()}
    fragments = {name: manifests[name].fragments for name in missing}
    covered: dict[str, dict[str, int]] = ray.get(task.remote(run.workspace, posts, fragments)[0])
    if lost := {name: counts[MISSING] for name, counts in covered.items() if MISSING in counts}:
        raise FeaturePassError(f"after the pass {counted(lost)} have no row; run again")
    for name, counts in covered.items():
        made = manifests[name]
        made.rows, made.counts = posts.rows, counts
        made.wall_seconds, made.rows_per_second = round(wall, 3), round(stats["computed"] / wall, 3)
        made.details["covers"][posts.fingerprint] = counts
        made.details["last_pass"] = stats
        run.workspace.commit(made)
    run.computed = {name: count for name, count in todo.items() if count}
    rate, first = stats["rows_per_second_steady"], stats["first_batch_seconds"]
    speed = f", {rate:.1f} posts/s after a first batch at {first:.1f} s" if rate else ""
    say(f"features: {max(todo.values()):,} posts computed{speed}")
    return {name: manifests[name] for name in run.families}


def _publish(workspace: Workspace, key: FamilyKey, ended: bool = False) -> Manifest:
    """Name, in a family's manifest, the whole files of all passes that computed it, and return the manifest.

    `ended`: no pass is running, so that those of now will have no more files.
    """
    name = key.family
    width = find(name).width(key.pinned)
    columns = [field.name for field in find(name).fields(width)]
    details = {"covers": {}, "columns": columns, "width": width}
    manifest = workspace.manifest(key.folder, key.fingerprint) or Manifest(
        key.folder, key.fingerprint, key.settings, key.inputs, {name: key.model}, details=details
    )
    named = {fragment.path for fragment in manifest.fragments}
    known = manifest.details.setdefault("passes", [])
    open_passes = [folder for folder in passes_of(workspace, name, key.fingerprint) if folder not in known]
    new = [fragment for folder in open_passes for fragment in written(workspace, folder) if fragment.path not in named]
    if new or (ended and open_passes):
        if new:
            manifest.details["content"] = fingerprint(manifest.content, [fragment.path for fragment in new])
        manifest.fragments += new
        manifest.rows = max(manifest.rows, sum(fragment.rows for fragment in manifest.fragments))
        known += open_passes if ended else []
        workspace.commit(manifest)
    return manifest


def survey(
    workspace: Workspace,
    posts: Manifest,
    fragments: Mapping[str, list[Fragment]],
    again: Iterable[str] = (),
    stored: Mapping[str, Manifest] | None = None,
) -> tuple[dict[str, dict[str, int]], pa.Table]:
    """What is there of some families, by the files that hold each.

    Returns:
        Posts by status of each family, those without a row as `MISSING`, those that killed their worker in two runs as
        `KILLED_TWICE`; and a table with a row a post, sorted by `row_id`: `need_<family>`, whether its status is among
        `again`, `killed`, whether it killed its worker before, and what the families read of `stored` ones.
    """
    ids = np.sort(post_row_ids(workspace, posts))
    known = pa.table({"row_id": ids})
    names = (MISSING, *STATUSES, KILLED_TWICE)
    found: dict[str, dict[str, int]] = {}
    killed = np.zeros(len(ids), dtype=bool)
    for family, files in fragments.items():
        index = index_of(workspace, family, files)
        codes = statuses_of(index, ids) + 1
        killers = index[index["kills"] > 0]
        places = locate_sorted(killers["row_id"].to_numpy(), ids)
        here = places >= 0
        killed[places[here]] = True
        codes[places[here & (killers["kills"] > 1)]] = len(names) - 1
        found[family] = {names[code]: count for code, count in enumerate(np.bincount(codes).tolist()) if count}
        need = np.isin(codes, [names.index(status) for status in again])
        known = known.append_column(f"need_{family}", pa.array(need))
    known = known.append_column("killed", pa.array(killed))
    for column in dict.fromkeys(column for family in fragments for column in find(family).reads):
        if (manifest := (stored or {}).get(owner_of(column) or "")) is not None:
            known = known.append_column(column, read_columns(workspace, manifest, [column], ids)[column])
    return found, known


def _compute(
    run: Run, posts: Manifest, keys: Mapping[str, FamilyKey], known: Any, todo: int, began: float
) -> dict[str, Any]:
    """Run the pass, show how far it is, publish what it has finished, and return what its workers counted."""
    settings, names = run.config.features, tuple(keys)
    remote = any(IMAGE in find(name).reads for name in names) and _any_remote(run.workspace, posts)
    placement = place(settings, names, run.session.nodes(), remote)
    say(f"features: {placement.describe()}")
    ledger = start_ledger(time.time() - (time.monotonic() - began))
    widths = {name: find(name).width(key.pinned) for name, key in keys.items()}
    schema = pa.schema([*KEYS, *(field for name, width in widths.items() for field in find(name).fields(width))])
    folder = begin_pass(run.workspace, {name: key.fingerprint for name, key in keys.items()})
    spec = PassSpec(run.config.images, tuple(keys.values()), schema, known, ledger)
    workers = sum(pool.actors for pool in placement.pools)
    last = NOTHING

    def ask() -> tuple[int, int | None, str]:
        nonlocal last
        last = asked(ledger.snapshot.remote(), last)
        for note in last["notes"]:
            run.tell(f"features: {note}")
        rate = last["rows_per_second_steady"]
        waiting = "computing" if last["computed"] else f"{last['ready']} of {workers} workers have their models"
        return min(todo, last["computed"]), todo, f"{rate:.1f} posts/s" if rate else waiting

    try:
        with (
            enough_nodes(run.session, placement) as begun,
            Reporter("features") as reporter,
            polled(reporter, ask),
            _publishing(run.workspace, keys),
        ):
            run_pass(spec, begun, posts, run.workspace, folder, settings.rows_per_block, todo)
    except UnreachableError:
        forget_unreachable(run.workspace, folder, names)
        raise
    ask()
    return {**last, "workers": workers, "colocated": placement.kind == "colocated", "device": placement.device}


@contextmanager
def _publishing(workspace: Workspace, keys: Mapping[str, FamilyKey]) -> Iterator[None]:
    """Publish now and then what a running pass has finished; where that fails, the end of the pass does it."""
    stop = Event()

    def work() -> None:
        while not stop.wait(PUBLISH_EVERY):
            try:
                for key in keys.values():
                    _publish(workspace, key)
            except (OSError, SmpRayError) as error:
                say(f"features: not published yet: {one_line(error)}")

    thread = Thread(target=work, name="publish", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _any_remote(workspace: Workspace, posts: Manifest) -> bool:
    """Whether any picture is not a file of this machine."""
    pieces = iter_posts(workspace, posts, ["image_uri"], 100_000)
    return any(pc.any(pc.match_substring(piece["image_uri"], "://")).as_py() for piece in pieces)
