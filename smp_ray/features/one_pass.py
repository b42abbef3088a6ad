"""One pass over the posts for all families that lack some: survey, compute, check, publish."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smp_ray.errors import FeaturePassError
from smp_ray.families.keys import FamilyKey
from smp_ray.families.registry import find, owner_of
from smp_ray.features.store_stage import counted
from smp_ray.progress import Reporter, polled, say
from smp_ray.run import Run
from smp_ray.schema import ERROR
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
    return _Pass(run, posts, manifests, missing).run_through()


@dataclass
class _Pass:
    run: Run
    posts: Manifest
    manifests: dict[str, Manifest]
    missing: list[str]
    #: The start of the stage, so that starting Ray counts.
    began: float = field(default_factory=time.monotonic)

    def run_through(self) -> dict[str, Manifest]:
        widths = {name: find(name).width(self.run.families[name].pinned) for name in self.missing}
        self.run.session.start()
        import ray

        from smp_ray.features.feature_pass import PassFolder
        from smp_ray.features.survey import survey

        task = ray.remote(num_cpus=0.25)(survey)
        todo, known = ray.get(task.remote(*self._survey_arguments()))
        say(f"features: {counted(todo)} to compute, of {self.posts.rows:,} posts")
        folder = PassFolder(self.run.workspace, f"{PASSES}/{self._pass_id()}")
        kept, stats = folder.mend(), {}
        if kept:
            say(f"features: going on from an interrupted run: {kept:,} posts kept, not computed again")
        if any(todo.values()):
            stats = self._compute(folder, known, widths, max(todo.values()), kept)
        self._publish(folder, widths, stats)
        self.run.workspace.delete_dir(folder.checkpoint)
        self.run.computed = {name: count for name, count in todo.items() if count}
        steady = stats.get("rows_per_second_steady")
        speed = f", {steady:.1f} posts/s after a first batch at {stats['first_batch_seconds']:.1f} s" if steady else ""
        say(f"features: {max(todo.values()) - kept:,} posts computed{speed}")
        return {name: self.manifests[name] for name in self.run.families}

    def _survey_arguments(self) -> tuple[Any, ...]:
        from smp_ray.features.actors import carried_columns

        owners = [(column, owner_of(column)) for column in carried_columns(self.missing)]
        carried = [(c, name, self.manifests[name].fragments) for c, name in owners if name in self.manifests]
        again = (ERROR, *self.run.retry)
        return self.run.workspace, self.posts, {name: self._fragments(name) for name in self.missing}, again, carried

    def _fragments(self, name: str) -> list[Fragment]:
        return self.manifests[name].fragments if name in self.manifests else []

    def _pass_id(self) -> str:
        state = {
            name: [self.run.families[name].fingerprint, [fragment.path for fragment in self._fragments(name)]]
            for name in self.missing
        }
        return fingerprint("pass", self.posts.fingerprint, state, list(self.run.retry))

    def _compute(self, folder: PassFolder, known: Any, widths: dict[str, int], todo: int, kept: int) -> dict[str, Any]:
        import ray

        from smp_ray.features.actors import Computed, PassSpec
        from smp_ray.features.feature_pass import cluster_resources, rows_per_block, run_pass
        from smp_ray.features.placement import place
        from smp_ray.features.stats import PassStats

        settings = self.run.config.features
        placement = place(settings, tuple(self.missing), cluster_resources(self.run.session.cores))
        say(f"features: {placement.describe()}")
        workers = max(pool.max_actors for pool in placement.pools)
        block = rows_per_block(self.posts.rows, settings.rows_per_block, workers)
        before = time.monotonic() - self.began
        counter: Any = PassStats.remote()  # type: ignore[attr-defined]
        keys = [self.run.families[name] for name in self.missing]
        families = [Computed(k.family, k.pinned.model_dump_json(), k.model, widths[k.family]) for k in keys]
        spec = PassSpec(settings.images, tuple(families), known, counter)
        with _shown(counter, todo, kept):
            run_pass(spec, placement, self.posts, folder, block)
        return {**ray.get(counter.snapshot.remote()), "started_after_seconds": before}

    def _publish(self, folder: PassFolder, widths: dict[str, int], stats: dict[str, Any]) -> None:
        import ray

        from smp_ray.features.survey import check

        new = folder.fragments()
        fragments = {name: [*self._fragments(name), *new] for name in self.missing}
        found = ray.get(ray.remote(num_cpus=0.25)(check).remote(self.run.workspace, self.posts, fragments))
        lost = {name: part["counts"]["missing"] for name, part in found.items() if "missing" in part["counts"]}
        if lost:
            path = self.run.workspace.path(folder.path)
            raise FeaturePassError(f"after the pass {counted(lost)} have no row; delete {path} and run again")
        for name in self.missing:
            manifest = self._manifest(self.run.families[name], fragments[name], found[name], widths[name], stats)
            self.manifests[name] = self.run.workspace.commit(manifest)

    def _manifest(
        self, key: FamilyKey, fragments: list[Fragment], found: dict[str, Any], width: int, stats: dict[str, Any]
    ) -> Manifest:
        old = self.manifests.get(key.family)
        wall = time.monotonic() - self.began
        details: dict[str, Any] = dict(old.details) if old else {"covers": {}}
        details["covers"] = {**details["covers"], self.posts.fingerprint: found["counts"]}
        details["columns"] = [column.name for column in find(key.family).fields(width)]
        details["last_pass"] = {**stats, "posts": self.posts.fingerprint}
        if found["repeated"]:
            details["superseded_rows"] = found["repeated"]
        if width:
            details["width"] = width
        done = stats.get("rows", {}).get("posts", 0)
        return Manifest(
            stage=key.folder, fingerprint=key.fingerprint, config=key.settings, models={key.family: key.model},
            inputs=key.inputs, rows=found["rows"], counts=found["counts"], wall_seconds=round(wall, 3),
            rows_per_second=round(done / wall, 3), fragments=fragments, details=details,
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
