"""The adapt stage: train one CLIP-Adapter a fold with Ray Train, then give every post its adapted features.

The artefact holds `data/` (a stored family, as feature families are), `adapters.safetensors`, `history.parquet` and
`progress.json`. Interrupted, it goes on from what is there: the input, the last epoch, the trained adapters.
"""

import os
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from smp_ray.config import embeddings
from smp_ray.errors import SmpRayError
from smp_ray.progress import Reporter, polled, say
from smp_ray.run import Run
from smp_ray.store.manifest import Fragment, Made, Manifest
from smp_ray.store.parquet import read_table
from smp_ray.store.reader import FamilyReader
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.apply import adapted_fields, apply_fragment, assigned_adapters
from smp_ray.training.adapter.plan import adapter_count
from smp_ray.training.adapter.rows import ADAPTERS, HISTORY, INPUT, PROGRESS, TRAIN, Embeddings
from smp_ray.training.splits import Splits, load_splits

#: Seconds between two looks of Ray Train at its workers; every epoch's report waits for one. Ray's own 2 s would make
#: an epoch of a small dataset take 2 s.
_HEALTH_CHECK = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}
#: No cloud takes nodes away from a Ray of our own; watching for it would cost another process.
_ALONE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


def adapt(run: Run, folder: str, posts: Manifest, store: dict[str, Manifest], splits: Manifest) -> Made:
    """Train the adapters and write what they make of every post's embeddings.

    Args:
        run: the command's run.
        folder: of the artefact.
        posts: the posts artefact.
        store: the family that embeds image and title.
        splits: the splits artefact.

    Raises:
        DataError: no labelled post has an image or a title, or too few for the folds.
        ConfigError: the workers do not fit into the cluster.
        SmpRayError: the training failed for good; running again goes on from its last epoch.
    """
    embedder = embeddings(run.config)
    assert embedder is not None  # else the configuration has no adapted features
    family, (image, title) = embedder
    opened = ray.put(Embeddings(FamilyReader(run.workspace, store[family]), image, title))
    # The ids of posts are long and of no use here.
    folds = replace(load_splits(run.workspace, splits), post_ids=np.empty(0, dtype=object))
    if not run.workspace.exists(folder, ADAPTERS):
        _train(run, folder, opened, folds)
    fragments, counts = _apply(run, folder, posts, opened, folds)
    made = _made(run.workspace, folder, posts, store[family].details["width"], fragments, counts)
    for leftover in (INPUT, TRAIN):
        run.workspace.delete_dir(folder, leftover)
    return made


def _train(run: Run, folder: str, opened: Any, splits: Splits) -> None:
    settings = run.config.training.adapter
    say(f"adapt: {adapter_count(splits)} adapters on {len(splits.row_ids):,} labelled posts")

    def ask() -> tuple[int, int | None, str]:
        now = run.workspace.read_json(folder, PROGRESS)
        return (now["epoch"] if now else 0), settings.max_epochs, "" if now else "starting workers"

    # In a task: Ray Train would replace this process's handler of Ctrl-C by one that ends with status 0.
    environment = {**_HEALTH_CHECK, **(_ALONE if run.session.cores is not None else {})}
    task = ray.remote(num_cpus=0)(_fit)
    with Reporter("adapt", unit="epochs") as reporter, polled(reporter, ask, every=1.0):
        _get(task.remote(environment, run.workspace, folder, opened, splits, settings))


def _fit(environment: dict[str, str], *arguments: Any) -> None:
    from smp_ray.training.adapter.fit import train

    for name, value in environment.items():
        os.environ.setdefault(name, value)
    train(*arguments)


def _apply(
    run: Run, folder: str, posts: Manifest, opened: Any, splits: Splits
) -> tuple[list[Fragment], dict[str, int]]:
    run.workspace.delete_dir(folder, "data")  # of an interrupted run
    weights = ray.put(run.workspace.read(folder, ADAPTERS))
    assigned = ray.put(assigned_adapters(splits, run.config.training.adapter.seed))
    task = ray.remote(num_cpus=1)(apply_fragment)
    found = _get(
        [
            task.remote(weights, opened, run.workspace, part, assigned, f"{folder}/data/part-{number:05d}.parquet")
            for number, part in enumerate(posts.fragments)
        ]
    )
    counts: Counter[str] = Counter()
    for _, part in found:
        counts.update(part)
    if counts.total() != posts.rows:
        raise SmpRayError(
            f"adapted {counts.total():,} posts of {posts.rows:,}: the posts artefact contradicts its "
            f"manifest; delete {run.workspace.path(posts.stage, posts.fingerprint)} and run again"
        )
    return [fragment for fragments, _ in found for fragment in fragments], dict(counts)


def _made(
    workspace: Workspace, folder: str, posts: Manifest, width: int,
    fragments: list[Fragment], counts: dict[str, int],
) -> Made:  # fmt: skip
    history = read_table(workspace, f"{folder}/{HISTORY}").to_pylist()
    done = workspace.read_json(folder, PROGRESS)
    mae = {(row["adapter"], row["epoch"]): round(row["heldout_mae"], 6) for row in history}
    # None where no epoch had a finite loss, so that the adapter stayed as it began.
    heldout = [mae.get((adapter, epoch)) for adapter, epoch in enumerate(done["best_epochs"])]
    known = [value for value in heldout if value is not None]
    learned = f"held-out MAE {sum(known) / len(known):.3f}" if known else "no adapter learned anything"
    details = {
        "width": width,
        "columns": [column.name for column in adapted_fields(width)],
        "covers": {posts.fingerprint: counts},
        "adapters": len(heldout),
        "epochs": done["epoch"],
        "best_epochs": done["best_epochs"],
        "heldout_mae": heldout,
        "workers": done["workers"],
        "starts": done["starts"],
        "seconds": {"epochs": round(done["seconds"], 3)},
    }
    by = f"{done['workers']} worker{'s' if done['workers'] > 1 else ''}"
    note = f"{len(heldout)} adapters, {done['epoch']} epochs by {by}, {learned}; {posts.rows:,} posts"
    return Made(rows=posts.rows, counts=counts, fragments=fragments, details=details, note=note)


def _get(references: Any) -> Any:
    """Results of Ray tasks; what a task raised of our own comes as it was raised."""
    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SmpRayError):
            raise error.cause from None
        raise
