"""One pass over the posts for all families that lack some: take over what earlier passes wrote, compute, publish."""

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from smp_ray.config import FeaturesConfig
from smp_ray.errors import FeaturePassError, LostNodesError, SmpRayError, UnreachableError, one_line
from smp_ray.families.keys import FamilyKey
from smp_ray.families.registry import find
from smp_ray.features.actors import PassSpec
from smp_ray.features.feature_pass import begin_pass, forget_unreachable, run_pass, written
from smp_ray.features.ledger import asked, start_ledger
from smp_ray.features.placement import place
from smp_ray.features.pools import Placement
from smp_ray.features.store_stage import counted, retried
from smp_ray.features.survey import MISSING, Survey, survey
from smp_ray.features.watch import enough_nodes
from smp_ray.progress import Reporter, polled, repeating, say
from smp_ray.run import Run
from smp_ray.schema import ERROR, KEYS
from smp_ray.store.manifest import Fragment, Manifest, fingerprint
from smp_ray.store.reader import passes_of
from smp_ray.store.workspace import Workspace

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
    manifests |= _publish(run.workspace, keys, ended=True)
    again = {MISSING, ERROR, *retried(run)}
    before = survey(run.workspace, posts, {name: manifests[name].fragments for name in missing}, again, manifests)
    todo = before.todo
    kept = {name: posts.rows - counts.get(MISSING, 0) for name, counts in before.counts.items()}
    say(f"features: {counted(todo)} to compute, of {posts.rows:,} posts")
    if any(0 < count < posts.rows for count in kept.values()):
        say(f"features: {counted(kept)} posts kept from before")
    stats, gone = NOTHING, ""
    try:
        if any(todo.values()):
            stats = _compute(run, posts, keys, before, max(todo.values()), began)
    except LostNodesError as error:
        gone = str(error)
    if gone:
        # Ray Data ends its actors by letting go of them. What the error remembers of the pass would keep them, and with
        # them the GPUs that the next plan needs.
        gc.collect()
        say(f"features: {gone}")
        return compute(run, posts, manifests, missing, began)
    wall = time.monotonic() - began
    manifests |= _publish(run.workspace, keys, ended=True)
    covered = survey(run.workspace, posts, {name: manifests[name].fragments for name in missing}).counts
    if lost := {name: counts[MISSING] for name, counts in covered.items() if MISSING in counts}:
        if max(lost.values()) < max(todo.values()):
            # Pictures come in the order in which they are there. Where a fetching worker is lost, Ray asks another for
            # what it had not handed on yet, by number, and gets other posts: some come twice, and some not at all.
            say(f"features: {counted(lost)} left over, of workers that were lost")
            return compute(run, posts, manifests, missing, began)
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


def _publish(workspace: Workspace, keys: Mapping[str, FamilyKey], ended: bool = False) -> dict[str, Manifest]:
    """Name, in each family's manifest, the whole files of all passes that computed it, and return the manifests.

    `ended`: no pass is running, so that those of now will have no more files.
    """
    manifests = {name: _manifest(workspace, key) for name, key in keys.items()}
    named = {name: {fragment.path for fragment in manifest.fragments} for name, manifest in manifests.items()}
    opened: dict[str, list[Fragment]] = {}  # a pass's files hold several families
    for name, manifest in manifests.items():
        known = manifest.details.setdefault("passes", [])
        folders = passes_of(workspace, name, keys[name].fingerprint)
        open_passes = [folder for folder in folders if folder not in known]
        for folder in open_passes:
            if folder not in opened:
                opened[folder] = written(workspace, folder, but=set.intersection(*named.values()))
        new = [fragment for folder in open_passes for fragment in opened[folder] if fragment.path not in named[name]]
        if new:
            manifest.details["content"] = fingerprint(manifest.content, [fragment.path for fragment in new])
            manifest.fragments += new
            manifest.rows = max(manifest.rows, sum(fragment.rows for fragment in manifest.fragments))
        if new or (ended and open_passes):
            known += open_passes if ended else []
            workspace.commit(manifest)
    return manifests


def _manifest(workspace: Workspace, key: FamilyKey) -> Manifest:
    """A family's manifest, or one that names no file yet."""
    family = find(key.family)
    width = family.width(key.pinned)
    columns = [field.name for field in family.fields(width)]
    details = {"covers": {}, "columns": columns, "width": width}
    return workspace.manifest(key.folder, key.fingerprint) or Manifest(
        key.folder, key.fingerprint, key.settings, key.inputs, {key.family: key.model}, details=details
    )


def _compute(
    run: Run, posts: Manifest, keys: Mapping[str, FamilyKey], before: Survey, todo: int, began: float
) -> dict[str, Any]:
    """Run the pass, show how far it is, publish what it has finished, and return what its workers counted."""
    settings, names = run.config.features, tuple(keys)
    placement = place(settings, names, run.session.nodes(), before.remote)
    if lost := without_gpu(settings, keys, placement):
        raise FeaturePassError(
            f"{', '.join(lost)}: begun on GPUs, of which the cluster has none any more; run again when it has, "
            "or say in ray.cluster what it may grow to"
        )
    say(f"features: {placement.describe()}")
    ledger = start_ledger(time.time() - (time.monotonic() - began))
    widths = {name: find(name).width(key.pinned) for name, key in keys.items()}
    schema = pa.schema([*KEYS, *(field for name, width in widths.items() for field in find(name).fields(width))])
    folder = begin_pass(run.workspace, {name: key.fingerprint for name, key in keys.items()})
    spec = PassSpec(run.config.images, tuple(keys.values()), schema, before.known, ledger)
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
            enough_nodes(run.session, placement, lambda: int(last["computed"])) as begun,
            Reporter("features") as reporter,
            polled(reporter, ask),
            _publishing(run.workspace, keys),
        ):
            run_pass(spec, begun, before.wanted(posts), run.workspace, folder, settings.rows_per_block, todo)
    except UnreachableError:
        forget_unreachable(run.workspace, folder, names)
        raise
    ask()
    return {**last, "workers": workers, "colocated": placement.kind == "colocated", "device": placement.device}


def without_gpu(settings: FeaturesConfig, keys: Mapping[str, FamilyKey], placement: Placement) -> list[str]:
    """Families whose `dtype: auto` was taken for a GPU and which have none in this plan."""
    on_cpu = {family for pool in placement.pools if not pool.need.gpus for family in pool.families}
    automatic = [name for name in keys if getattr(settings.section(name), "dtype", None) == "auto"]
    return [name for name in automatic if name in on_cpu and getattr(keys[name].pinned, "dtype", "") != "float32"]


@contextmanager
def _publishing(workspace: Workspace, keys: Mapping[str, FamilyKey]) -> Iterator[None]:
    """Publish now and then what a running pass has finished; where that fails, the end of the pass does it."""

    def work() -> bool:
        try:
            _publish(workspace, keys)
        except (OSError, SmpRayError) as error:
            say(f"features: not published yet: {one_line(error)}")
        return True

    with repeating(PUBLISH_EVERY, work):
        yield
