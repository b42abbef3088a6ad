"""The feature matrix that LightGBM sees: readable columns in groups, NaN where missing; and how a stored one is read.

`gather` reads what needs no fitting from the store by row id, `encoder` fits on training posts, `build` stores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from smp_ray.store.join import locate
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import read_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.splits import Splits


@dataclass(frozen=True)
class Matrix:
    """Numbers for LightGBM.

    Attributes:
        values: float32 (posts, columns); NaN where missing; codes of categories as whole numbers.
        names: column names, as they appear in feature importances.
        families: the group of each column.
        categorical: names of the columns that hold category codes.
        levels: the texts behind the codes 0, 1, … of each categorical column.
    """

    values: np.ndarray
    names: tuple[str, ...]
    families: tuple[str, ...]
    categorical: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]

    def only(self, families: Iterable[str]) -> Matrix:
        """The columns of some groups."""
        wanted = set(families)
        keep = [place for place, family in enumerate(self.families) if family in wanted]
        names = tuple(self.names[place] for place in keep)
        return Matrix(
            values=np.ascontiguousarray(self.values[:, keep]),
            names=names,
            families=tuple(self.families[place] for place in keep),
            categorical=tuple(name for name in self.categorical if name in names),
            levels={name: levels for name, levels in self.levels.items() if name in names},
        )

    def rows(self, which: np.ndarray) -> Matrix:
        """Some posts, by a boolean mask or positions."""
        return Matrix(self.values[which], self.names, self.families, self.categorical, self.levels)


@dataclass(frozen=True)
class FoldData:
    """What one fold's model learns from and is judged by.

    Attributes:
        fold: number of the fold.
        training: matrix of the training posts.
        training_popularity: float64 (training posts,).
        validation: matrix of the fold's own posts, encoded by what was fitted on the training posts.
        validation_popularity: float64 (validation posts,).
        validation_positions: int64 (validation posts,), their places in `Splits`.
    """

    fold: int
    training: Matrix
    training_popularity: np.ndarray
    validation: Matrix
    validation_popularity: np.ndarray
    validation_positions: np.ndarray


def load_fold(workspace: Workspace, manifest: Manifest, splits: Splits, fold: int) -> FoldData:
    """One fold's matrices, as `build.build_matrix` stored them in the artefact, for the folds that it was built for."""
    matrix, row_ids, training = _load(workspace, manifest, f"fold-{fold}")
    positions = locate(row_ids, splits.row_ids)
    popularity = splits.popularity[positions]
    return FoldData(
        fold=fold,
        training=matrix.rows(training),
        training_popularity=popularity[training],
        validation=matrix.rows(~training),
        validation_popularity=popularity[~training],
        validation_positions=positions[~training],
    )


def load_folds(workspace: Workspace, manifest: Manifest, splits: Splits) -> list[FoldData]:
    """All folds' matrices, see `load_fold`."""
    return [load_fold(workspace, manifest, splits, fold) for fold in range(splits.count)]


def load_final(workspace: Workspace, manifest: Manifest) -> tuple[Matrix, np.ndarray, np.ndarray]:
    """The matrix of all posts, fitted on all labelled ones; row ids int64 (posts,); which posts trained, bool."""
    return _load(workspace, manifest, "final")


def _load(workspace: Workspace, manifest: Manifest, name: str) -> tuple[Matrix, np.ndarray, np.ndarray]:
    table = read_table(workspace, manifest.file(f"{name}.parquet").path)
    columns = manifest.details["columns"]
    # A category or text column is there or not by what a fold's training posts hold, so each file has its own list.
    names = tuple(column for column in table.column_names if column not in ("row_id", "post_id", "training"))
    levels = {column: tuple(texts) for column, texts in manifest.details["levels"][name].items()}
    values = np.empty((table.num_rows, len(names)), dtype=np.float32)
    for place, column in enumerate(names):
        values[:, place] = table[column].to_numpy()
    matrix = Matrix(values, names, tuple(columns[column] for column in names), tuple(levels), levels)
    return matrix, table["row_id"].to_numpy(), table["training"].to_numpy()
