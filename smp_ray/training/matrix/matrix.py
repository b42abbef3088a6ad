"""The feature matrix that LightGBM sees: readable columns in groups, NaN where missing; and how a stored one is read.

`columns` reads what needs no fitting from the store by row id, `encoder` fits on training posts, `build` stores.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from smp_ray.store.join import locate
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import read_rows, read_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.splits import Splits


@dataclass(frozen=True)
class Matrix:
    """Numbers for LightGBM.

    Attributes:
        values: float32 (posts, columns); NaN where missing; codes of categories as whole numbers.
        names: column names, as they appear in feature importances.
        families: the group of each column.
        levels: the texts behind the codes 0, 1, … of each categorical column; all others hold numbers.
    """

    values: np.ndarray
    names: tuple[str, ...]
    families: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]

    def only(self, families: Iterable[str]) -> "Matrix":
        """The columns of some groups."""
        keep = np.isin(self.families, list(families))
        names = tuple(np.array(self.names)[keep].tolist())
        levels = {name: texts for name, texts in self.levels.items() if name in names}
        return Matrix(self.values[:, keep], names, tuple(np.array(self.families)[keep].tolist()), levels)

    def rows(self, which: np.ndarray) -> "Matrix":
        """Some posts, by a boolean mask or positions."""
        return replace(self, values=self.values[which])


@dataclass(frozen=True)
class FoldData:
    """What one fold's model learns from and is judged by, each in the order of its posts.

    The validation posts are encoded by what was fitted on the training posts; their positions are those in `Splits`.
    """

    fold: int
    training: Matrix
    training_popularity: np.ndarray
    validation: Matrix
    validation_popularity: np.ndarray
    validation_positions: np.ndarray


def load_folds(
    workspace: Workspace, manifest: Manifest, splits: Splits, which: Iterable[int] | None = None
) -> list[FoldData]:
    """Matrices of all folds (or some), as `build.build_matrix` stored them, for the folds that it was built for."""
    found = []
    for fold in range(splits.count) if which is None else which:
        matrix, row_ids, training = _load(workspace, manifest, f"fold-{fold}")
        positions = locate(row_ids, splits.row_ids)
        learned, judged = positions[training], positions[~training]
        labels = splits.popularity
        own, held = matrix.rows(training), matrix.rows(~training)
        found.append(FoldData(fold, own, labels[learned], held, labels[judged], judged))
    return found


def load_final(workspace: Workspace, manifest: Manifest, part: int = 0, parts: int = 1) -> tuple[Matrix, np.ndarray]:
    """The matrix of all labelled posts, fitted on all, or one of so many parts of it; row ids int64 (posts,)."""
    return _load(workspace, manifest, "final", part, parts)[:2]


def _load(
    workspace: Workspace, manifest: Manifest, name: str, part: int = 0, parts: int = 1
) -> tuple[Matrix, np.ndarray, np.ndarray]:
    path = manifest.file(f"{name}.parquet").path
    table = read_table(workspace, path) if parts == 1 else read_rows(workspace, path, part, parts)
    # A category or text column is there or not by what a fold's training posts hold, so each file has its own list.
    names = tuple(column for column in table.column_names if column not in ("row_id", "post_id", "training"))
    levels = {column: tuple(texts) for column, texts in manifest.details["levels"][name].items()}
    values = np.column_stack([table[column].to_numpy() for column in names])
    matrix = Matrix(values, names, tuple(manifest.details["columns"][column] for column in names), levels)
    return matrix, table["row_id"].to_numpy(), table["training"].to_numpy()
