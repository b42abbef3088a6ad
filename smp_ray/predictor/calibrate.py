"""The calibrate stage: how far predictions may be off, learned from what they were off out of fold."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from smp_ray.config import LIGHTGBM
from smp_ray.errors import DataError
from smp_ray.predictor.uncertainty import FEWEST, ROUNDS, SETTINGS, Uncertainty, coverage, cross_fitted
from smp_ray.run import Run
from smp_ray.store.join import locate
from smp_ray.store.manifest import Made, Manifest
from smp_ray.training.adapter.rows import ADAPTED_PREDICTION
from smp_ray.training.boosting.base import Model
from smp_ray.training.boosting.cross_fit import fit
from smp_ray.training.boosting.registry import find
from smp_ray.training.matrix.matrix import Matrix, load_final
from smp_ray.training.matrix.text import FROM_ALL, FROM_TEXT
from smp_ray.training.out_of_fold import TUNED, read_out_of_fold
from smp_ray.training.splits import load_splits

#: The level that is held against the labels.
LEVEL = 0.9
SIZES_FILE = "sizes.txt"
#: Columns of the matrix of all posts that were fitted to the posts' own labels.
_FITTED = (FROM_TEXT, FROM_ALL, ADAPTED_PREDICTION)


def calibrate(run: Run, folder: str, splits: Manifest, matrix: Manifest, tuned: Manifest) -> Made:
    """Learn the size of the out-of-fold residuals, and say what intervals made of it are worth."""
    workspace, folds = run.workspace, load_splits(run.workspace, splits)
    final, row_ids = load_final(workspace, matrix)
    judged = folds.judged
    predicted = read_out_of_fold(workspace, tuned, folds, TUNED)[judged]
    residuals, users, fold = folds.popularity[judged] - predicted, folds.users[judged], folds.folds[judged]
    values = sizing(final.rows(locate(folds.row_ids[judged], row_ids)), predicted)
    past_only, seed = folds.kind == "time", run.config.training.tune.seed
    sizes = cross_fitted(lambda x, y: _learned(x, y, seed)[1], values, residuals, fold, past_only)
    sized = np.isfinite(sizes)
    if sized.sum() < FEWEST:
        raise DataError("calibrate: one post is left to make intervals of; take more posts or more folds")
    worth = coverage(residuals, sizes, users, fold, LEVEL, past_only)
    text, _ = _learned(values, np.abs(residuals), seed)
    workspace.write(text.encode(), folder, SIZES_FILE)
    uncertainty = Uncertainty.of(residuals[sized], sizes[sized], users[sized])
    note = "too few folds to hold intervals against"
    if worth:
        note = (
            f"{LEVEL:.0%} intervals held {worth['covered']:.1%} of {worth['posts']:,} labels, mean width "
            f"{worth['width']:.3g} ({worth['constant_width']:.3g} with one width for all)"
        )
    if uncertainty.highest_level < LEVEL:
        note += f"; {uncertainty.posts} residuals are too few for {LEVEL:.0%}: at most {uncertainty.highest_level:.0%}"
    details = {"uncertainty": asdict(uncertainty), "coverage": worth, "sizes": f"{folder}/{SIZES_FILE}"}
    return Made(rows=int(judged.sum()), details=details, note=note)


def sizing(matrix: Matrix, prediction: np.ndarray) -> np.ndarray:
    """What the size of a residual is learned from, float32 (posts, columns): the prediction and the matrix."""
    kept = [place for place, name in enumerate(matrix.names) if name not in _FITTED]
    return np.column_stack([prediction, matrix.values[:, kept]]).astype(np.float32)


def load_sizes(text: str, columns: int | None = None) -> Model:
    """The model of the sizes, from what the stage wrote; a stranger's text is checked to be one of so many columns."""
    predictor = find(LIGHTGBM)
    return predictor.load(text if columns is None else predictor.checked(text, columns))


def sizes_of(model: Model, matrix: Matrix, prediction: np.ndarray) -> np.ndarray:
    """Sizes of the residuals of posts, float64 (posts,)."""
    return model.predict(_plain(sizing(matrix, prediction)))


def _plain(values: np.ndarray) -> Matrix:
    names = tuple(map(str, range(values.shape[1])))
    return Matrix(values, names, names, {})


def _learned(values: np.ndarray, target: np.ndarray, seed: int) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    predictor = find(LIGHTGBM)
    settings: dict[str, Any] = {**SETTINGS, "min_data_in_leaf": min(30, max(5, len(target) // 20))}
    complete = predictor.complete(settings, "mae", seed, 1)
    text = fit(predictor, _plain(values), target, complete, ROUNDS).text()
    model = predictor.load(text)
    return text, lambda rows: model.predict(_plain(rows))
