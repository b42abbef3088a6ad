"""The matrix artefact: one Parquet file a fold and one of all labelled posts, each encoded in a Ray task of its own.

`fold-<k>.parquet` holds the posts that train or judge fold k (`training` tells which), encoded by what was fitted on
the training ones; `final.parquet` holds all, encoded by what was fitted on all. `encoder.safetensors` is what that was,
`past.safetensors` what counts as their users' past: with both, posts that come later are encoded.
"""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from smp_ray.config import Config, matrix_families, matrix_groups
from smp_ray.evaluation.metrics import src
from smp_ray.progress import Reporter
from smp_ray.run import Run
from smp_ray.store.join import locate
from smp_ray.store.manifest import Made, Manifest
from smp_ray.store.parquet import write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.apply import Adapters
from smp_ray.training.examples import PAST_FILE, POSTS, example_pieces
from smp_ray.training.matrix.columns import Columns, columns_from
from smp_ray.training.matrix.encoder import Encoder
from smp_ray.training.matrix.matrix import Matrix
from smp_ray.training.past import Past
from smp_ray.training.splits import Splits, load_splits

#: No honest column of the published datasets comes near it; the mean label of a user over all rows reaches .97.
SUSPICIOUS_SRC = 0.95
#: What encoding takes beside what all folds share, mostly words: of 306,000 posts of SMPD-Image some 6 GB.
BYTES_A_POST = 20_000
LEAST_POSTS_OF_A_SUSPICION = 30
#: Of the matrix of all posts, in the artefact's folder.
ENCODER_FILE = "encoder.safetensors"


def build_matrix(run: Run, folder: str, labelled: Manifest, splits: Manifest, adapted: Manifest | None) -> Made:
    """Encode and store the matrices of all folds, and what was fitted for the last.

    `adapted` are the adapters, None where the matrix does not take what they make.
    """
    groups = matrix_groups(run.config)
    columns = ray.remote(num_cpus=0.5)(_columns).remote(run.workspace, labelled, splits, adapted, run.config)
    folds = load_splits(run.workspace, splits)
    shared = ray.put(folds)
    encode_part = ray.remote(num_cpus=run.session.cpus_of(1), memory=_memory(run, labelled.rows))(_encode_part)
    wanted = (*range(folds.count), None)
    running = [encode_part.remote(columns, shared, fold, run.config, run.workspace, folder) for fold in wanted]
    parts = run.session.gather(running, Reporter("matrix", "folds"))
    details = {
        "columns": {name: group for part in parts for name, group in part["columns"].items()},
        "levels": {part["name"]: part["levels"] for part in parts},
        "families": list(groups),
        "encoder": f"{folder}/{ENCODER_FILE}",
        "past": f"{folder}/{PAST_FILE}",
        "warnings": parts[-1]["warnings"],
    }
    return Made(
        rows=labelled.rows,
        fragments=[part["fragment"] for part in parts],
        details=details,
        note=f"{len(details['columns'])} columns of {', '.join(groups)}",
    )


def _memory(run: Run, posts: int) -> int:
    """Bytes that encoding a fold asks for, so that only as many run at once as fit; 0 where nodes do not say theirs."""
    largest = max(node.memory_gb for node in run.session.nodes())
    most = 0.9e9 * largest  # for more it would wait for ever
    return 0 if largest == math.inf else int(min(BYTES_A_POST * posts, most))


def _columns(
    workspace: Workspace, labelled: Manifest, splits: Manifest, adapted: Manifest | None, config: Config
) -> Columns:
    """What the matrix is made of. Runs as a Ray task."""
    families = matrix_families(config)
    adapters = None if adapted is None else Adapters.of(workspace, adapted, splits)
    tables = example_pieces(workspace, labelled, (POSTS, *families))
    seen = labelled.details.get("past")
    past = Past.from_bytes(workspace.read(seen)) if seen else None
    delay = config.training.matrix.history_delay_days
    return columns_from(tables, families, matrix_groups(config), past, adapters, delay)


def _encode_part(
    columns: Columns, splits: Splits, fold: int | None, config: Config, workspace: Workspace, folder: str
) -> dict[str, Any]:
    """Encode and write one fold (None: all labelled posts). Runs as a Ray task."""
    settings = config.training
    encoder = Encoder(settings.matrix, settings.split.seed)
    place = locate(columns.row_ids, splits.row_ids)
    popularity, users = splits.popularity[place], splits.users[place]
    part, training, name = np.ones(len(place), dtype=bool), np.ones(len(place), dtype=bool), "final"
    if fold is not None:
        training, name = splits.training(fold)[place], f"fold-{fold}"
        part = training | splits.validation(fold)[place]
    matrix = encoder.fit_transform(columns, training, popularity, users).rows(part)
    if fold is None:
        workspace.write(encoder.to_bytes(), folder, ENCODER_FILE)
        workspace.write(columns.past.to_bytes(), folder, PAST_FILE)
    table = {"row_id": columns.row_ids[part], "post_id": columns.post_ids[part], "training": training[part]}
    table |= dict(zip(matrix.names, np.ascontiguousarray(matrix.values.T), strict=True))
    return {
        "name": name,
        "fragment": write_table(workspace, f"{folder}/{name}.parquet", pa.table(table)),
        "columns": dict(zip(matrix.names, matrix.families, strict=True)),
        "levels": {column: list(texts) for column, texts in matrix.levels.items()},
        "warnings": suspicious(matrix, popularity[part]) if fold is None else [],
    }


def suspicious(matrix: Matrix, popularity: np.ndarray) -> list[str]:
    """Warnings of columns of labelled posts that rank the labels almost perfectly on their own: they may hold them."""
    found = []
    for name, values in zip(matrix.names, matrix.values.T, strict=True):
        present = np.isfinite(values)
        if name in matrix.levels or present.sum() < LEAST_POSTS_OF_A_SUSPICION:
            continue
        ranks = src(popularity[present], values[present])
        if ranks is not None and abs(ranks) > SUSPICIOUS_SRC:
            found.append(f"{name} alone ranks popularity with SRC {ranks:.2f}: does it hold the label?")
    return found
