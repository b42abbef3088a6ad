"""A small table of posts in folds, for what trains LightGBM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.parquet import write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.matrix.matrix import FoldData, Matrix
from smp_ray.training.splits import SCHEMA, Splits

POSTS, COLUMNS, FOLDS = 400, 8, 3

#: A search space, as a configuration file gives it.
SPACE: dict[str, Any] = {
    "learning_rate": {"type": "float", "low": 0.01, "high": 0.2, "log": True},
    "num_leaves": {"type": "int", "low": 8, "high": 256, "log": True},
    "min_data_in_leaf": {"type": "int", "low": 5, "high": 100, "log": True},
    "feature_fraction": {"type": "float", "low": 0.2, "high": 1.0},
    "bagging_fraction": {"type": "float", "low": 0.5, "high": 1.0},
    "lambda_l1": {"type": "float", "low": 1e-3, "high": 10.0, "log": True},
    "extra_trees": {"type": "choice", "values": [False, True]},
}


def small_matrix(posts: int = POSTS, seed: int = 0) -> tuple[Matrix, np.ndarray]:
    """Numbers with gaps and one category, and labels above 1 that float32 holds exactly."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(posts, COLUMNS)).astype(np.float32)
    category = rng.integers(4, size=posts)
    clean = values.copy()
    values[rng.random(values.shape) < 0.1] = np.nan
    values[:, -1] = category
    noise = rng.standard_t(3, size=posts)
    popularity = (
        8 + 2 * clean[:, 0] + np.sin(3 * clean[:, 1]) + clean[:, 2] * clean[:, 3] + (category == 2) + 0.5 * noise
    )
    names = (*(f"number {place}" for place in range(COLUMNS - 1)), "category")
    families = ("metadata",) * COLUMNS
    matrix = Matrix(values, names, families, {"category": ("dog", "cat", "sea", "food")})
    return matrix, np.maximum(popularity, 1).astype(np.float32).astype(np.float64)


def small_splits(seed: int = 0) -> Splits:
    """Folds of the small table's posts; the first posts only train."""
    _, popularity = small_matrix(seed=seed)
    folds = np.arange(POSTS) % FOLDS
    folds[:40] = -1
    post_ids = np.array([f"post-{place}" for place in range(POSTS)], dtype=object)
    users = np.arange(POSTS) // 2
    return Splits("random", FOLDS, np.arange(POSTS) * 7 + 5, post_ids, users, popularity, folds.astype(np.int16))


def small_folds(seed: int = 0) -> list[FoldData]:
    """The small table's folds; validation posts come in an order of their own."""
    matrix, popularity = small_matrix(seed=seed)
    splits = small_splits(seed)
    found = []
    for fold in range(FOLDS):
        training = np.flatnonzero(splits.training(fold))
        validation = np.random.default_rng(fold).permutation(np.flatnonzero(splits.validation(fold)))
        found.append(
            FoldData(
                fold, matrix.rows(training), popularity[training], matrix.rows(validation), popularity[validation],
                validation,
            )
        )  # fmt: skip
    return found


def commit_small(workspace: Workspace) -> dict[str, Manifest]:
    """The small table as the artefacts that a sweep reads."""
    splits, (matrix, popularity) = small_splits(), small_matrix()
    users = [f"user {user}" for user in splits.users]
    columns = [splits.row_ids, splits.post_ids, users, popularity, splits.folds]
    table = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), SCHEMA)
    folds = Manifest(
        stage="splits", fingerprint="folds", config={"kind": splits.kind, "folds": splits.count},
        fragments=[write_table(workspace, "splits/folds/splits.parquet", table)], details={"warnings": []},
    )  # fmt: skip
    every = np.arange(POSTS)
    parts = {f"fold-{fold.fold}": _rows(splits, fold) for fold in small_folds()}
    parts["final"] = every, np.ones(POSTS, dtype=bool)
    built = Manifest(
        stage="matrix", fingerprint="matrix", config={}, rows=POSTS,
        fragments=[_write_part(workspace, name, matrix, splits, *part) for name, part in parts.items()],
        details={
            "columns": dict(zip(matrix.names, matrix.families, strict=True)), "families": ["metadata"],
            "levels": {key: {name: list(texts) for name, texts in matrix.levels.items()} for key in parts},
        },
    )  # fmt: skip
    return {"splits": workspace.commit(folds), "matrix": workspace.commit(built)}


def _rows(splits: Splits, fold: FoldData) -> tuple[np.ndarray, np.ndarray]:
    training = np.flatnonzero(splits.training(fold.fold))
    rows = np.concatenate([training, fold.validation_positions])
    return rows, np.arange(len(rows)) < len(training)


def _write_part(
    workspace: Workspace, name: str, matrix: Matrix, splits: Splits, rows: np.ndarray, training: np.ndarray
) -> Fragment:
    columns: dict[str, Any] = {"row_id": splits.row_ids[rows], "post_id": splits.post_ids[rows], "training": training}
    columns |= {column: matrix.values[rows, place] for place, column in enumerate(matrix.names)}
    return write_table(workspace, f"matrix/matrix/{name}.parquet", pa.table(columns))
