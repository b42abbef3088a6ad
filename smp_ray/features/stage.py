"""The features stage: find what is missing, compute that in one pass, check it, publish it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from smp_ray.config import Config, Family, FeaturesConfig
from smp_ray.errors import FeaturePassError
from smp_ray.features.store import PASSES, FamilyKey, covers, family_keys
from smp_ray.progress import Reporter, polled, say
from smp_ray.ray_session import RaySession
from smp_ray.schema import ERROR, FAMILIES
from smp_ray.store import FamilyIndex, post_row_ids, read_fragment
from smp_ray.workspace import Fragment, Manifest, Workspace, fingerprint

logger = logging.getLogger(__name__)


@dataclass
class FeatureResult:
    """What the stage has done: manifests by family, posts computed now by family, posts kept from a broken run."""

    manifests: dict[Family, Manifest]
    computed: dict[Family, int] = field(default_factory=dict)
    kept: int = 0
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def up_to_date(self) -> bool:
        """Whether there was nothing to do."""
        return not self.computed

    def failed(self, posts: str) -> dict[Family, int]:
        """Posts with status `error` by family; a run with any is not a success."""
        counts = {family: m.details["covers"][posts].get(ERROR, 0) for family, m in self.manifests.items()}
        return {family: count for family, count in counts.items() if count}


def compute_features(
    config: Config, workspace: Workspace, posts: Manifest, session: RaySession, retry: Sequence[str] = ()
) -> FeatureResult:
    """Bring every configured family up to date with the posts artefact.

    Args:
        config: the resolved configuration.
        workspace: where posts lie and features go.
        posts: the committed posts artefact.
        session: Ray, started here only if there is something to compute.
        retry: statuses to compute again, besides `error`, which every run tries again.

    Raises:
        FeaturePassError: the pass broke off; running again goes on from what was kept.
    """
    keys = family_keys(config)
    manifests = {family: workspace.manifest(key.stage, key.fingerprint) for family, key in keys.items()}
    missing = tuple(f for f in FAMILIES if f in keys and _wants(manifests[f], posts.fingerprint, retry))
    if not missing:
        return FeatureResult({family: m for family, m in manifests.items() if m is not None})
    return _Pass(config, workspace, posts, session, keys, manifests, missing, tuple(retry)).run()


def _wants(manifest: Manifest | None, posts: str, retry: Sequence[str]) -> bool:
    if manifest is None or not covers(manifest, posts):
        return True
    return any(manifest.details["covers"][posts].get(status, 0) for status in retry)


@dataclass
class _Pass:
    config: Config
    workspace: Workspace
    posts: Manifest
    session: RaySession
    keys: dict[Family, FamilyKey]
    manifests: dict[Family, Manifest | None]
    missing: tuple[Family, ...]
    retry: tuple[str, ...]
    #: The start of the stage, so that starting Ray counts.
    began: float = field(default_factory=time.monotonic)

    def run(self) -> FeatureResult:
        width = self._clip_width()
        self.session.start()
        import ray

        from smp_ray.features.feature_pass import PassFolder

        todo, known = ray.get(ray.remote(num_cpus=0.25)(survey).remote(*self._survey_arguments()))
        say(f"features: {_counts(todo)} to compute, of {self.posts.rows:,} posts")
        folder = PassFolder(self.workspace, f"{PASSES}/{self._pass_id()}")
        kept, stats = folder.mend(), {}
        if kept:
            say(f"features: going on from an interrupted run: {kept:,} posts kept, not computed again")
        if any(todo.values()):
            stats = self._compute(folder, known, width, max(todo.values()), kept)
        manifests = self._publish(folder, width, time.monotonic() - self.began, stats)
        self.workspace.delete_dir(folder.checkpoint)
        return FeatureResult(manifests, {f: n for f, n in todo.items() if n}, kept, stats)

    def _clip_width(self) -> int:
        if "clip" not in self.missing:
            return 0
        from smp_ray.models.clip import clip_width

        return clip_width(self.config.features.clip)

    def _survey_arguments(self) -> tuple[Any, ...]:
        needs_captions = "clip" in self.missing and "caption" in self.keys
        captions = self.manifests["caption"] if needs_captions else None
        fragments = {f: m.fragments if (m := self.manifests[f]) else [] for f in self.missing}
        return self.workspace, self.posts, fragments, (ERROR, *self.retry), captions.fragments if captions else []

    def _pass_id(self) -> str:
        state = {
            f: [self.keys[f].fingerprint, [x.path for x in m.fragments] if (m := self.manifests[f]) else []]
            for f in self.missing
        }
        return fingerprint("pass", self.posts.fingerprint, state, list(self.retry))

    def _compute(self, folder: Any, known: Any, width: int, todo: int, kept: int) -> dict[str, Any]:
        import ray

        from smp_ray.features.actors import PassSpec, PassStats
        from smp_ray.features.feature_pass import cluster_resources, rows_per_block, run_pass
        from smp_ray.features.placement import place

        settings = self.config.features
        placement = place(settings, self.missing, cluster_resources(self.session.cores))
        say(f"features: {placement.describe()}")
        workers = max(pool.max_actors for pool in placement.pools)
        block = rows_per_block(self.posts.rows, settings.rows_per_block, workers)
        before = time.monotonic() - self.began
        counter: Any = PassStats.remote()  # type: ignore[attr-defined]
        spec = PassSpec(self._pinned(settings), self.missing, width, known, counter)

        def ask() -> tuple[int, int | None, str]:
            now = ray.get(counter.snapshot.remote(), timeout=30)
            rate = now["rows_per_second_steady"]
            note = (
                f"{rate:.1f} posts/s" if rate else ("computing" if now["loads"] else "starting workers, loading models")
            )
            return min(todo, kept + now["rows"].get("posts", 0)), todo, note

        with Reporter("features") as reporter, polled(reporter, ask):
            run_pass(spec, placement, self.posts, folder, block)
        return {**ray.get(counter.snapshot.remote()), "started_after_seconds": before}

    def _pinned(self, settings: FeaturesConfig) -> FeaturesConfig:
        """Hub models at the commit that the fingerprint names, so that workers cannot load a newer one."""
        update: dict[str, Any] = {}
        sections: dict[Family, str] = {"caption": "captioner", "perplexity": "perplexity"}
        for family, name in sections.items():
            revision = self.keys[family].model.get("revision") if family in self.keys else None
            if revision:
                update[name] = getattr(settings, name).model_copy(update={"revision": revision})
        return settings.model_copy(update=update)

    def _publish(self, folder: Any, width: int, wall: float, stats: dict[str, Any]) -> dict[Family, Manifest]:
        import ray

        new = folder.fragments()
        fragments = {f: [*(m.fragments if (m := self.manifests[f]) else []), *new] for f in self.missing}
        checked = ray.get(ray.remote(num_cpus=0.25)(check).remote(self.workspace, self.posts, fragments))
        lost = {family: found["counts"]["missing"] for family, found in checked.items() if "missing" in found["counts"]}
        if lost:
            raise FeaturePassError(
                f"after the pass {_counts(lost)} have no row; delete {self.workspace.path(folder.path)} and run again"
            )
        committed = {f: m for f, m in self.manifests.items() if m is not None}
        for family in self.missing:
            manifest = self._manifest(family, fragments[family], checked[family], width, wall, stats)
            committed[family] = self.workspace.commit(manifest)
        return {family: committed[family] for family in self.keys}

    def _manifest(
        self,
        family: Family,
        fragments: list[Fragment],
        found: dict[str, Any],
        width: int,
        wall: float,
        stats: dict[str, Any],
    ) -> Manifest:
        key, old = self.keys[family], self.manifests[family]
        details: dict[str, Any] = dict(old.details) if old else {"covers": {}}
        details["covers"] = {**details["covers"], self.posts.fingerprint: found["counts"]}
        details["last_pass"] = {**stats, "posts": self.posts.fingerprint}
        if found["repeated"]:
            details["superseded_rows"] = found["repeated"]
        if width and family == "clip":
            details["clip_width"] = width
        done = stats.get("rows", {}).get("posts", 0)
        return Manifest(
            stage=key.stage, fingerprint=key.fingerprint, config=key.settings, models={family: key.model},
            inputs=key.inputs, rows=found["rows"], counts=found["counts"], wall_seconds=round(wall, 3),
            rows_per_second=round(done / wall, 3), fragments=fragments, details=details,
        )  # fmt: skip


def survey(
    workspace: Workspace,
    posts: Manifest,
    fragments: dict[Family, list[Fragment]],
    again: Sequence[str],
    captions: list[Fragment],
) -> tuple[dict[Family, int], Any]:
    """How many posts each family lacks, and a reference to what is known, if anything is. Runs as a Ray task."""
    import ray

    from smp_ray.features.actors import Known

    ids = post_row_ids(workspace, posts)
    todo: dict[Family, int] = {}
    known = Known()
    for family, files in fragments.items():
        if files:
            # The ids of other posts artefacts are of no use to the workers.
            index = FamilyIndex(workspace, family, files)
            have = index.without(again)
            have = have[_isin_sorted(have, ids)]
            todo[family] = len(ids) - len(have)
            known.covered[family] = have
        else:
            todo[family] = len(ids)
    if captions:
        known.caption_ids, known.captions = _stored_captions(workspace, captions)
    if not known.covered and known.captions is None:
        return todo, None
    return todo, ray.put(known)


def check(
    workspace: Workspace, posts: Manifest, fragments: dict[Family, list[Fragment]]
) -> dict[Family, dict[str, Any]]:
    """Counts by status over the posts, rows in all and superseded rows of each family. Runs as a Ray task."""
    ids = post_row_ids(workspace, posts)
    result: dict[Family, dict[str, Any]] = {}
    for family, files in fragments.items():
        index = FamilyIndex(workspace, family, files)
        result[family] = {"counts": index.count(ids), "rows": len(index.row_ids), "repeated": index.repeated}
    return result


def _stored_captions(workspace: Workspace, fragments: list[Fragment]) -> tuple[Any, pa.ChunkedArray]:
    index = FamilyIndex(workspace, "caption", fragments)
    tables = [read_fragment(workspace, fragment, ["caption"]) for fragment in fragments]
    starts = [0]
    for table in tables:
        starts.append(starts[-1] + table.num_rows)
    import numpy as np

    position = np.asarray(starts, dtype=np.int64)[index.fragment] + index.position
    return index.row_ids, pa.concat_tables(tables)["caption"].take(pa.array(position))


def _isin_sorted(values: Any, among: Any) -> Any:
    import numpy as np

    return np.isin(values, among, assume_unique=True)


def _counts(todo: dict[Family, int]) -> str:
    return ", ".join(f"{family} {count:,}" for family, count in todo.items())
