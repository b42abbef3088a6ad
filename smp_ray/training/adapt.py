"""The adapt stage: train one CLIP-Adapter a fold with Ray Train, then give every post its adapted features.

`features/adapted/<fingerprint>/` holds `data/` (the family), `adapters.safetensors`, `history.parquet` and, written
last, the manifest. Interrupted, it goes on from what is there: the input, the last epoch, the trained adapters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from smp_ray.config import AdapterConfig, Config
from smp_ray.errors import DataError, SmpRayError
from smp_ray.progress import Reporter, polled, say
from smp_ray.ray_session import RaySession
from smp_ray.store import FamilyReader
from smp_ray.training.adapt_apply import Assigned, apply_fragment
from smp_ray.training.adapt_data import ADAPTERS, HISTORY, INPUT, PROGRESS, TRAIN, AdapterInput, write_input
from smp_ray.training.adapt_plan import assign
from smp_ray.training.splits import Splits
from smp_ray.workspace import Fragment, Manifest, Workspace, fingerprint

#: Raised when the same settings would give other features.
ADAPT_VERSION = 1
STAGE = "features/adapted"
#: Settings that say how the adapters are trained, not what they become.
_HOW_NOT_WHAT = {"workers", "use_gpu", "cpus_per_worker", "max_failures"}


def adapt_fingerprint(config: Config, posts: Manifest, clip: Manifest, splits: Splits) -> str:
    """Fingerprint of the adapted features of a posts artefact under this configuration."""
    settings = config.training.adapter.model_dump(mode="json", exclude=_HOW_NOT_WHAT)
    # Posts embedded again under the same fingerprint (`--retry`) come in new files.
    stored = [clip.fingerprint, [fragment.path for fragment in clip.fragments]]
    inputs = [posts.fingerprint, stored, splits.fingerprint]
    return fingerprint(STAGE, ADAPT_VERSION, settings, inputs)


def adapt(
    config: Config,
    workspace: Workspace,
    posts: Manifest,
    clip: Manifest,
    splits: Splits,
    session: RaySession,
    key: str | None = None,
) -> Manifest:
    """Train the adapters and write the family `adapted`; a no-op where that was done.

    Args:
        config: the resolved configuration.
        workspace: where posts and features lie, and where these go.
        posts: the committed posts artefact.
        clip: the committed clip family.
        splits: the folds of the labelled posts.
        session: Ray, started here only if there is something to do.
        key: fingerprint of the artefact; None for `adapt_fingerprint`.

    Raises:
        DataError: no labelled post has an image or a title, or too few for the folds.
        ConfigError: the workers do not fit into the cluster.
        SmpRayError: the training failed for good; running again goes on from its last epoch.
    """
    key = key or adapt_fingerprint(config, posts, clip, splits)
    if (done := workspace.manifest(STAGE, key)) is not None:
        return done
    return _Adapt(config.training.adapter, workspace, posts, clip, splits, session, key).run()


@dataclass
class _Adapt:
    settings: AdapterConfig
    workspace: Workspace
    posts: Manifest
    clip: Manifest
    splits: Splits
    session: RaySession
    key: str
    #: Wall time of each part, for the manifest.
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return f"{STAGE}/{self.key}"

    def run(self) -> Manifest:
        began = time.monotonic()
        self.session.start()
        reader = _remote(_open_clip).remote(self.workspace, self.clip)
        if not self.workspace.exists(self.folder, ADAPTERS):
            with self._timed("prepare"):
                data = self._prepare(reader)
            with self._timed("train"):
                self._train(data)
        with self._timed("apply"):
            fragments, counts = self._apply(reader)
        manifest = self._manifest(fragments, counts, time.monotonic() - began)
        self.workspace.commit(manifest)
        for leftover in (INPUT, TRAIN):
            self.workspace.delete_dir(self.folder, leftover)
        say(_summary(manifest))
        return manifest

    def _prepare(self, reader: Any) -> AdapterInput:
        # The ids of posts are long and of no use here.
        splits = replace(self.splits, post_ids=np.empty(0, dtype=object))
        width = int(self.clip.details["clip_width"])
        task = _remote(write_input).remote(
            reader, self.workspace, f"{self.folder}/{INPUT}", splits, width, self.settings
        )
        _import_ray_train()  # takes seconds, so it happens while the task reads
        data: AdapterInput | None = _get(task)
        if data is None:
            raise DataError(
                f"none of the {len(self.splits.row_ids):,} labelled posts has an image or a title that CLIP has "
                "embedded, so there is nothing to adapt; leave adapted out of training.matrix.families"
            )
        return data

    def _train(self, data: AdapterInput) -> None:
        from smp_ray.training.adapt_fit import fit, plan_workers
        from smp_ray.training.adapt_worker import AdaptTask

        workers = plan_workers(self.settings)
        say(f"adapt: {len(data.trains)} adapters on {data.rows:,} posts, {workers.describe()}")

        def ask() -> tuple[int, int | None, str]:
            now = self.workspace.read_json(self.folder, PROGRESS)
            return (now["epoch"] if now else 0), self.settings.max_epochs, "" if now else "starting workers"

        with Reporter("adapt", unit="epochs") as reporter, polled(reporter, ask, every=1.0):
            task = AdaptTask(self.settings, data, self.splits.count, self.workspace, self.folder)
            fit(task, workers, alone=self.session.cores is not None)

    def _apply(self, reader: Any) -> tuple[list[Fragment], dict[str, int]]:
        import ray

        self.workspace.delete_dir(self.folder, "data")  # of an interrupted run
        self.workspace.make_dir(self.folder, "data")
        with self.workspace.filesystem.open_input_stream(self.workspace.path(self.folder, ADAPTERS)) as stream:
            weights = ray.put(stream.read())
        assigned = ray.put(Assigned.of(self.splits.row_ids, assign(self.splits, self.settings.seed)))
        task = _remote(apply_fragment, cpus=1)
        names = (f"{self.folder}/data/part-{number:05d}.parquet" for number in range(len(self.posts.fragments)))
        found = _get(
            [
                task.remote(weights, reader, self.workspace, posts, assigned, name)
                for posts, name in zip(self.posts.fragments, names, strict=True)
            ]
        )
        counts: dict[str, int] = {}
        for _, part in found:
            for status, rows in part.items():
                counts[status] = counts.get(status, 0) + rows
        if sum(counts.values()) != self.posts.rows:
            raise SmpRayError(
                f"adapted {sum(counts.values()):,} posts of {self.posts.rows:,}: the posts artefact contradicts its "
                f"manifest; delete {self.workspace.path(self.posts.stage, self.posts.fingerprint)} and run again"
            )
        return [fragment for fragment, _ in found if fragment.rows], counts

    def _manifest(self, fragments: list[Fragment], counts: dict[str, int], wall: float) -> Manifest:
        path = self.workspace.path(self.folder, HISTORY)
        history = pq.read_table(path, filesystem=self.workspace.filesystem, partitioning=None).to_pylist()
        done = self.workspace.read_json(self.folder, PROGRESS)
        mae = {(row["adapter"], row["epoch"]): round(row["heldout_mae"], 6) for row in history}
        details = {
            "clip_width": int(self.clip.details["clip_width"]),
            "covers": {self.posts.fingerprint: counts},
            "adapters": len(done["best_epochs"]),
            "epochs": done["epoch"],
            "best_epochs": done["best_epochs"],
            # None where no epoch had a finite loss, so that the adapter stayed as it began.
            "heldout_mae": [mae.get((adapter, epoch)) for adapter, epoch in enumerate(done["best_epochs"])],
            "workers": done["workers"],
            "starts": done["starts"],
            "seconds": {**self.seconds, "epochs": round(done["seconds"], 3)},
        }
        return Manifest(
            stage=STAGE, fingerprint=self.key, config=self.settings.model_dump(mode="json"),
            inputs={"posts": self.posts.fingerprint, "clip": self.clip.fingerprint, "splits": self.splits.fingerprint},
            rows=sum(counts.values()), counts=counts, wall_seconds=round(wall, 3),
            rows_per_second=round(sum(counts.values()) / wall, 3), fragments=fragments, details=details,
        )  # fmt: skip

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - began, 3)


def _summary(manifest: Manifest) -> str:
    """The one line at the end."""
    details = manifest.details
    known = [value for value in details["heldout_mae"] if value is not None]
    mae = f"held-out MAE {sum(known) / len(known):.3f}" if known else "no adapter learned anything"
    seconds = details["seconds"]
    start = f" ({seconds['train'] - seconds['epochs']:.1f} s of it starting workers)" if "train" in seconds else ""
    return (
        f"adapt: {details['adapters']} adapters, {details['epochs']} epochs, {mae}; "
        f"{manifest.rows:,} posts in {manifest.wall_seconds:.1f} s{start}"
    )


def _open_clip(workspace: Workspace, clip: Manifest) -> FamilyReader:
    return FamilyReader(workspace, clip, "clip")


def _import_ray_train() -> None:
    import smp_ray.training.adapt_fit  # noqa: F401


def _remote(work: Callable[..., Any], cpus: float = 0.25) -> Any:
    import ray

    return ray.remote(num_cpus=cpus)(work)


def _get(references: Any) -> Any:
    """Results of Ray tasks; what a task raised of our own comes as it was raised."""
    import ray

    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SmpRayError):
            raise error.cause from None
        raise
