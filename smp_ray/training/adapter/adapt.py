"""The adapt stage: train one CLIP-Adapter a fold with Ray Train, then give every post its adapted features.

The artefact holds `data/` (a stored family, as feature families are), `adapters.safetensors`, `history.parquet` and
`progress.json`. Interrupted, it goes on from what is there: the input, the last epoch, the trained adapters.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray

from smp_ray.config import ADAPTED, embeddings
from smp_ray.errors import SmpRayError
from smp_ray.families.base import stored_fields
from smp_ray.progress import Reporter, polled, say
from smp_ray.run import Run
from smp_ray.schema import KEYS, NO_IMAGE, NO_TEXT, OK
from smp_ray.store.join import vector_column
from smp_ray.store.manifest import Fragment, Made, Manifest
from smp_ray.store.parquet import PartWriter, read_table
from smp_ray.store.reader import FamilyReader, iter_posts
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter import rows
from smp_ray.training.adapter.plan import MEAN_OF_FOLDS, adapter_count, assign
from smp_ray.training.splits import Splits, load_splits

#: Posts adapted at once.
_ROWS = 2048


def adapt(run: Run, folder: str, posts: Manifest, store: dict[str, Manifest], splits: Manifest) -> Made:
    """Train the adapters and write what they make of every post's embeddings.

    Raises:
        DataError: no labelled post has an image or a title, or too few for the folds.
        ConfigError: the workers do not fit into the cluster.
        SmpRayError: the training failed for good; running again goes on from its last epoch.
    """
    embedder = embeddings(run.config)
    assert embedder is not None  # else the configuration has no adapted features
    family, columns = embedder
    opened = ray.put(rows.Embeddings(FamilyReader(run.workspace, store[family], columns), *columns))
    folds = load_splits(run.workspace, splits)
    if not run.workspace.exists(folder, rows.ADAPTERS):
        _train(run, folder, opened, folds)
    fragments, counts = _apply(run, folder, posts, opened, folds)
    if sum(counts.values()) != posts.rows:
        where = run.workspace.path(posts.stage, posts.fingerprint)
        raise SmpRayError(f"adapted {sum(counts.values()):,} posts of {posts.rows:,}; delete {where} and run again")
    history = read_table(run.workspace, f"{folder}/{rows.HISTORY}").to_pandas()
    # An adapter whose losses were never finite stayed as it began.
    finite = history[np.isfinite(history["heldout_loss"])]
    best = finite.loc[finite.groupby("adapter")["heldout_loss"].idxmin(), ["adapter", "epoch", "heldout_mae"]]
    progress, width = run.workspace.read_json(folder, rows.PROGRESS), store[family].details["width"]
    for leftover in (rows.INPUT, rows.TRAIN):
        run.workspace.delete_dir(folder, leftover)
    details = {
        "width": width,
        "columns": [field.name for field in stored_fields(ADAPTED, rows.ADAPTED_COLUMNS, width)],
        "covers": {posts.fingerprint: counts},
        "best": best.to_dict("records"),
        **progress,
    }
    learned = f"held-out MAE {best['heldout_mae'].mean():.3f}" if len(best) else "no adapter learned anything"
    by = f"{progress['workers']} worker{'s' if progress['workers'] > 1 else ''}"
    note = f"{adapter_count(folds)} adapters, {progress['epoch']} epochs by {by}, {learned}; {posts.rows:,} posts"
    return Made(rows=posts.rows, counts=counts, fragments=fragments, details=details, note=note)


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


def _apply(
    run: Run, folder: str, posts: Manifest, opened: Any, splits: Splits
) -> tuple[list[Fragment], dict[str, int]]:
    weights = ray.put(run.workspace.read(folder, rows.ADAPTERS))
    assigned = ray.put(pd.Series(assign(splits, run.config.training.adapter.seed), splits.row_ids))
    task = ray.remote(num_cpus=1)(apply_fragment)
    running = [
        task.remote(
            weights, opened, run.workspace, replace(posts, fragments=[part]), assigned,
            f"{folder}/data/part-{number:05d}.parquet",
        )
        for number, part in enumerate(posts.fragments)
    ]  # fmt: skip
    found = ray.get(running)
    counts = sum((part for _, part in found), Counter[str]())
    return [fragment for fragments, _ in found for fragment in fragments], dict(counts)


def apply_fragment(
    weights: bytes, embeddings: rows.Embeddings, workspace: Workspace, posts: Manifest, assigned: pd.Series, path: str
) -> tuple[list[Fragment], Counter[str]]:
    """Adapt posts into a file at `path`; runs as a Ray task, in bounded memory.

    `posts` may be a part of its fragments; `assigned` is the adapter of each labelled post, by row id: other posts take
    the mean.

    Returns:
        The file (none where there are no posts), and its rows by status.
    """
    import torch

    from smp_ray.models.adapter import AdapterBank

    torch.set_num_threads(1)  # as many of these tasks run as there are CPUs
    bank = AdapterBank.from_bytes(weights).eval()
    schema = pa.schema([*KEYS, *stored_fields(ADAPTED, rows.ADAPTED_COLUMNS, bank.shape.width)])
    counts: Counter[str] = Counter()
    with PartWriter(workspace, path, schema) as writer:
        for keys in iter_posts(workspace, posts, KEYS.names, _ROWS):
            row_ids = keys["row_id"].to_numpy()
            given = rows.inputs(embeddings.read(row_ids))
            adapter = torch.tensor(assigned.reindex(row_ids, fill_value=MEAN_OF_FOLDS).to_numpy(), dtype=torch.int64)
            image, title, prediction = bank.apply_to(adapter, *(torch.from_numpy(v).float() for v in given.values()))
            has_image, has_title = given["has_image"], given["has_title"]
            status = np.where(~has_image, NO_IMAGE, np.where(has_title, OK, NO_TEXT))
            columns = [
                *keys.columns,
                vector_column(image.numpy().astype(np.float16), ~has_image),
                vector_column(title.numpy().astype(np.float16), ~has_title),
                pa.array((image * title).sum(dim=1).clamp(-1, 1).numpy(), mask=~(has_image & has_title)),
                pa.array(prediction.numpy(), mask=~(has_image | has_title)),
                status,
                pa.nulls(len(keys), pa.string()),
            ]
            writer.write(pa.table(columns, names=schema.names).cast(schema))
            counts.update(status.tolist())
    return writer.fragments, counts
