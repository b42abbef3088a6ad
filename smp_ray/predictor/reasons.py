"""Why a prediction is what it is, in words: the strongest columns of each post, and the sums by group.

Contributions are SHAP values: what a column adds to the mean prediction, in the unit of popularity. Numbers that mean
nothing one by one (the parts of an embedding, of reduced text) count together.
"""

import re
from collections.abc import Sequence

import numpy as np

from smp_ray.evaluation.bootstrap import interval
from smp_ray.families.registry import columns_of
from smp_ray.training.boosting.base import Model
from smp_ray.training.matrix.matrix import Matrix

#: A part of a vector: principal component, dimension, or part of the reduced text.
_PART = re.compile(r"_(pc|d|svd)\d{2,3}$")


def contributions(models: Sequence[Model], matrix: Matrix) -> np.ndarray | None:
    """Mean contributions of the models, float64 (posts, columns); None where a model has none."""
    found = [one for model in models if (one := model.contributions(matrix.values)) is not None]
    return np.asarray(np.mean(found, axis=0)) if len(found) == len(models) else None


def reasons(shap: np.ndarray, matrix: Matrix, families: Sequence[str], most: int) -> list[list[str]]:
    """For each post the strongest columns, the strongest first: "title perplexity 7,200: -0.80"."""
    labels = {name: column.measure.label for name, column in columns_of(families).items() if column.measure}
    bases = np.array([_PART.sub("", name) for name in matrix.names])
    names, codes = np.unique(bases, return_inverse=True)
    summed = np.zeros((len(shap), len(names)))
    np.add.at(summed.T, codes, shap.T)
    single = {name: place for place, name in enumerate(matrix.names)}
    found = []
    for values, own in zip(summed, matrix.values, strict=True):
        strongest = [place for place in np.argsort(-np.abs(values))[:most] if values[place]]
        lines = []
        for name, value in ((str(names[place]), values[place]) for place in strongest):
            shown = _shown(matrix, name, own[single[name]]) if name in single else ""
            lines.append(
                f"{labels.get(name, name.replace('_', ' '))}{shown}: {interval(value, None, None, 2, signed=True)}"
            )
        found.append(lines)
    return found


def by_group(shap: np.ndarray, matrix: Matrix) -> list[dict[str, float]]:
    """For each post the sum of the contributions of each group of columns."""
    groups = list(dict.fromkeys(matrix.families))
    sums = np.stack([shap[:, np.array(matrix.families) == group].sum(axis=1) for group in groups], axis=1)
    return [dict(zip(groups, map(float, row), strict=True)) for row in sums]


def _shown(matrix: Matrix, name: str, value: float) -> str:
    """A column's value, as people write it."""
    if not np.isfinite(value):
        return " (missing)"
    if name in matrix.levels:
        return f" {matrix.levels[name][int(value)]}"
    return f" {value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f" {value:.3g}"
