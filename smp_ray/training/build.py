"""The matrix artefact: one Parquet file a fold and one of all posts, each encoded in a Ray task of its own.

`matrix/<fingerprint>/fold-<k>.parquet` holds the posts that train or judge fold k (`training` tells which), encoded by
what was fitted on the training ones; `final.parquet` holds every post, encoded by what was fitted on all labelled ones.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.config import Config
from smp_ray.ray_session import RaySession
from smp_ray.schema import StoredFamily
from smp_ray.training.columns import Columns, load_columns
from smp_ray.training.encoder import encode
from smp_ray.training.keys import matrix_families
from smp_ray.training.matrix import Matrix
from smp_ray.training.metrics import src
from smp_ray.training.splits import Splits
from smp_ray.workspace import Fragment, Manifest, Workspace

STAGE = "matrix"
#: No honest column of the published datasets comes near it; the mean label of a user over all rows reaches .97.
SUSPICIOUS_SRC = 0.95
LEAST_POSTS_OF_A_SUSPICION = 30


def build_matrix(
    config: Config,
    workspace: Workspace,
    posts: Manifest,
    splits: Splits,
    stored: Mapping[StoredFamily, Manifest],
    session: RaySession,
    key: str,
) -> Manifest:
    """Encode and store the matrices of all folds under the fingerprint `key`; a no-op where that was done.

    Raises:
        ConfigError: a family needs features that are not configured.
    """
    if (done := workspace.manifest(STAGE, key)) is not None:
        return done
    began = time.monotonic()
    session.start()
    import ray

    families = matrix_families(config)
    columns = ray.remote(num_cpus=0.5)(load_columns).remote(workspace, posts, dict(stored), families)
    shared = ray.put(splits)
    encode_part = ray.remote(num_cpus=session.cpus_of(1))(_encode_part)
    workspace.make_dir(STAGE, key)
    parts = [encode_part.remote(columns, shared, fold, config, workspace, key) for fold in (*range(splits.count), None)]
    done_parts: list[dict[str, Any]] = ray.get(parts)
    details = {
        "columns": {name: family for part in done_parts for name, family in part["columns"].items()},
        "levels": {part["name"]: part["levels"] for part in done_parts},
        "families": list(families),
        "warnings": [warning for part in done_parts for warning in part["warnings"]],
    }
    return workspace.commit(
        Manifest(
            stage=STAGE, fingerprint=key, config=config.training.matrix.model_dump(mode="json"),
            inputs={"posts": posts.fingerprint, "splits": splits.fingerprint}, rows=posts.rows,
            wall_seconds=round(time.monotonic() - began, 3), fragments=[part["fragment"] for part in done_parts],
            details=details,
        )
    )  # fmt: skip


def _encode_part(
    columns: Columns, splits: Splits, fold: int | None, config: Config, workspace: Workspace, key: str
) -> dict[str, Any]:
    """Encode and write one fold (None: all posts). Runs as a Ray task."""
    popularity, users, training = aligned(columns.row_ids, splits, fold)
    name = "final"
    if fold is not None:
        name = f"fold-{fold}"
        judged = np.zeros(len(columns), dtype=bool)
        judged[np.isin(columns.row_ids, splits.row_ids[splits.validation(fold)])] = True
        part = training | judged
        columns, training, popularity, users = columns.rows(part), training[part], popularity[part], users[part]
    settings, split = config.training.matrix, config.training.split
    trained = popularity[training]
    matrix = encode(columns, training, popularity, users, settings, split.seed)
    path = f"{STAGE}/{key}/{name}.parquet"
    table = _as_table(matrix, columns, training)
    pq.write_table(table, workspace.path(path), filesystem=workspace.filesystem, compression="zstd")
    size = workspace.filesystem.get_file_info(workspace.path(path)).size
    return {
        "name": name,
        "fragment": Fragment(path, table.num_rows, size),
        "columns": dict(zip(matrix.names, matrix.families, strict=True)),
        "levels": {column: list(texts) for column, texts in matrix.levels.items()},
        "warnings": suspicious(matrix.rows(training), trained) if fold is None else [],
    }


def suspicious(matrix: Matrix, popularity: np.ndarray) -> list[str]:
    """Warnings of columns that rank the labels almost perfectly on their own: they probably hold them.

    Args:
        matrix: labelled posts.
        popularity: float64 (posts,).
    """
    found = []
    for place, name in enumerate(matrix.names):
        values = matrix.values[:, place]
        present = np.isfinite(values)
        if name in matrix.categorical or present.sum() < LEAST_POSTS_OF_A_SUSPICION:
            continue
        ranks = src(popularity[present], values[present])
        if ranks is not None and abs(ranks) > SUSPICIOUS_SRC:
            found.append(f"{name} alone ranks popularity with SRC {ranks:.2f}: does it hold the label?")
    return found


def aligned(row_ids: np.ndarray, splits: Splits, fold: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Popularity (NaN where unlabelled), user codes and the training mask of a fold (None: all) for given posts."""
    order = np.argsort(splits.row_ids)
    place = np.minimum(np.searchsorted(splits.row_ids, row_ids, sorter=order), len(order) - 1)
    positions = order[place]
    labelled = splits.row_ids[positions] == row_ids
    popularity = np.where(labelled, splits.popularity[positions], np.nan)
    users = np.where(labelled, splits.users[positions], -1)
    trains = labelled & (True if fold is None else splits.training(fold)[positions])
    return popularity, users, trains


def _as_table(matrix: Matrix, columns: Columns, training: np.ndarray) -> pa.Table:
    arrays: dict[str, Any] = {"row_id": columns.row_ids, "post_id": columns.post_ids, "training": training}
    for place, name in enumerate(matrix.names):
        arrays[name] = np.ascontiguousarray(matrix.values[:, place])
    return pa.table(arrays)
