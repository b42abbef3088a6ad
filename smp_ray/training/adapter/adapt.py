"""The adapt stage: train one CLIP-Adapter a fold with Ray Train.

The artefact holds `adapters.safetensors`, `history.parquet` and `progress.json`. Interrupted, it goes on from what is
there: the last epoch, or the trained adapters. What they make of posts is in `apply`.
"""

from typing import Any

import numpy as np
import ray

from smp_ray.config import embeddings
from smp_ray.progress import Reporter, polled, say
from smp_ray.run import Run
from smp_ray.store.manifest import Made, Manifest
from smp_ray.store.parquet import read_table
from smp_ray.training.adapter import rows
from smp_ray.training.adapter.plan import adapter_count
from smp_ray.training.ray_train import RUNS
from smp_ray.training.splits import Splits, load_splits


def adapt(run: Run, folder: str, labelled: Manifest, splits: Manifest) -> Made:
    """Train the adapters.

    Raises:
        DataError: no labelled post has an image or a title, or too few for the folds.
        ConfigError: the workers do not fit into the cluster.
        SmpRayError: the training failed for good; running again goes on from its last epoch.
    """
    embedder = embeddings(run.config)
    assert embedder is not None  # else the configuration has no adapted features
    family, (image, title) = embedder
    folds = load_splits(run.workspace, splits)
    if not run.workspace.exists(folder, rows.ADAPTERS):
        _train(run, folder, rows.Embeddings(run.workspace, labelled, family, (image, title)), folds)
    history = read_table(run.workspace, f"{folder}/{rows.HISTORY}").to_pandas()
    # An adapter whose losses were never finite stayed as it began.
    finite = history[np.isfinite(history["heldout_loss"])]
    best = finite.loc[finite.groupby("adapter")["heldout_loss"].idxmin(), ["adapter", "epoch", "heldout_mae"]]
    progress = run.workspace.read_json(folder, rows.PROGRESS)
    run.workspace.delete_dir(folder, RUNS)
    details = {"embeddings": [image, title], "best": best.to_dict("records"), **progress}
    # No figure to quote: the best epoch is chosen on the posts that it is judged on.
    learned = f"MAE {best['heldout_mae'].mean():.3f} where they stopped" if len(best) else "no adapter learned anything"
    by = f"{progress['workers']} worker{'s' if progress['workers'] > 1 else ''}"
    note = f"{adapter_count(folds)} adapters, {progress['epoch']} epochs by {by}, {learned}"
    return Made(rows=len(folds.row_ids), details=details, note=note)


def _train(run: Run, folder: str, opened: Any, splits: Splits) -> None:
    settings = run.config.training.adapter
    say(f"adapt: {adapter_count(splits)} adapters on {len(splits.row_ids):,} labelled posts")

    def ask() -> tuple[int, int | None, str]:
        now = run.workspace.read_json(folder, rows.PROGRESS)
        return (now["epoch"] if now else 0), settings.max_epochs, "" if now else "starting workers"

    # In a task: Ray Train would replace this process's handler of Ctrl-C by one that ends with status 0.
    task = ray.remote(num_cpus=0)(_fit)
    with Reporter("adapt", unit="epochs") as reporter, polled(reporter, ask, every=1.0):
        ray.get(task.remote(run.workspace, folder, opened, splits, settings, run.session.nodes()))


def _fit(*arguments: Any) -> None:
    from smp_ray.training.adapter.fit import train  # seconds, for Ray Train

    train(*arguments)
