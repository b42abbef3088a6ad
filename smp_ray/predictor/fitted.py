"""All that was fitted, as one object: adapters, encoder, the users' past, and the final models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from smp_ray.config import Config, matrix_families, matrix_groups
from smp_ray.errors import DataError
from smp_ray.store.manifest import Manifest
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.apply import Adapters
from smp_ray.training.boosting.base import Model
from smp_ray.training.boosting.registry import find
from smp_ray.training.matrix.columns import columns_from
from smp_ray.training.matrix.encoder import Encoder
from smp_ray.training.matrix.matrix import Matrix
from smp_ray.training.past import Past


@dataclass(frozen=True)
class Fitted:
    """From wide rows of posts (see `store.wide`) to popularity.

    Attributes:
        families: those whose columns the rows must have.
        groups: of the matrix.
        adapters: None where the matrix does not take what they make.
        models: their mean is the prediction.
    """

    families: tuple[str, ...]
    groups: tuple[str, ...]
    delay_days: float | None
    adapters: Adapters | None
    encoder: Encoder
    past: Past
    models: Sequence[Model]

    @classmethod
    def of(
        cls,
        workspace: Workspace,
        config: Config,
        splits: Manifest,
        adapted: Manifest | None,
        matrix: Manifest,
        tuned: Manifest,
    ) -> Fitted:
        """What the stages of a configuration committed."""
        predictor = find(tuned.details["predictor"])
        return cls(
            families=matrix_families(config),
            groups=matrix_groups(config),
            delay_days=config.training.matrix.history_delay_days,
            adapters=None if adapted is None else Adapters.of(workspace, adapted, splits),
            encoder=Encoder.from_bytes(workspace.read(matrix.details["encoder"])),
            past=Past.from_bytes(workspace.read(matrix.details["past"])),
            models=[predictor.load(workspace.read(path).decode()) for path in tuned.details["models"]],
        )

    def matrix(self, tables: Iterable[pa.Table], past: Past) -> Matrix:
        """The matrix of posts that were not learned from; `past` is what counts as their users' past.

        Raises:
            DataError: columns are not as they were when the encoder was fitted.
        """
        # As it was fitted: more threads add up in another order.
        with threadpool_limits(1):
            delay, widths = self.delay_days, self.encoder.widths
            columns = columns_from(tables, self.families, self.groups, past, self.adapters, delay, widths)
            return self.encoder.transform(columns)

    def predict(self, matrix: Matrix) -> np.ndarray:
        """Popularity, float64 (posts,).

        Raises:
            DataError: a model was trained on other columns.
        """
        for model in self.models:
            if model.columns != len(matrix.names):
                raise DataError(f"a model was trained on {model.columns} columns, the matrix has {len(matrix.names)}")
        return np.asarray(np.mean([model.predict(matrix) for model in self.models], axis=0))
