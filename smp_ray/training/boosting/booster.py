"""Boosting the models of all folds together, round by round, judged by the mean of their objectives.

`Lockstep` is what a trial, a baseline and a variant of the ablation share; `fit` makes the final model of as many
rounds. One number of rounds is chosen for all folds, as `lgb.cv` does, because the final model, trained on all posts,
has no posts left to stop early by and is given that number.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np

from smp_ray.errors import DataError, SmpRayError
from smp_ray.evaluation.metrics import by_fold, score
from smp_ray.training.boosting.lightgbm_params import Objective, complete_params, dataset_params
from smp_ray.training.matrix.matrix import FoldData, Matrix


@dataclass(frozen=True)
class BinnedFold:
    """A fold as LightGBM takes it: both parts in bins, of which the training part decided.

    Attributes:
        fold: number of the fold.
        training: constructed Dataset of the training posts.
        validation: constructed Dataset of the fold's own posts.
        popularity: float64 (validation posts,), the labels; those in a Dataset are float32.
        positions: int64 (validation posts,), places of the validation posts in `Splits`.
    """

    fold: int
    training: lgb.Dataset
    validation: lgb.Dataset
    popularity: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of posts by models that did not see them.

    Attributes:
        prediction: float64 (posts of `Splits`,); NaN where no fold judged the post.
        objective: mean over the folds of their MAE or MAPE.
        rounds: boosting rounds of every fold's model.
        folds: `fold`, `posts`, `src`, `mae` and `mape` of each fold.
        seconds: for training, without binning.
    """

    prediction: np.ndarray
    objective: float
    rounds: int
    folds: list[dict[str, Any]]
    seconds: float


def bin_matrix(matrix: Matrix, popularity: np.ndarray, params: Mapping[str, Any]) -> lgb.Dataset:
    """A constructed Dataset of some posts; `params` are those that belong to a Dataset, see `dataset_params`."""
    return lgb.Dataset(
        matrix.values,
        label=popularity,
        # LightGBM takes no names with spaces or JSON's signs, so the columns go by number; columns.json names them.
        feature_name=[f"column_{place}" for place in range(len(matrix.names))],
        categorical_feature=[matrix.names.index(name) for name in matrix.categorical],
        params=dict(params),
    ).construct()


def bin_fold(fold: FoldData, params: Mapping[str, Any]) -> BinnedFold:
    """Both parts of a fold in the bins of its training posts."""
    training = bin_matrix(fold.training, fold.training_popularity, params)
    validation = lgb.Dataset(
        fold.validation.values, label=fold.validation_popularity, reference=training, params=dict(params)
    )
    return BinnedFold(
        fold.fold, training, validation.construct(), fold.validation_popularity, fold.validation_positions
    )


def check_labels(labels: Sequence[np.ndarray], objective: Objective) -> None:
    """Whether the objective is defined on these validation labels.

    Raises:
        DataError: MAPE with a label of 0, or a fold without posts.
    """
    for fold, popularity in enumerate(labels):
        if not len(popularity):
            raise DataError(f"fold {fold} has no posts to be judged by; set training.split.folds lower")
        if objective == "mape" and not popularity.all():
            zeros = int(np.count_nonzero(popularity == 0))
            raise DataError(
                f"training.tune.objective is mape, which is undefined for a popularity of 0; fold {fold} has {zeros} "
                f"such post{'s' if zeros > 1 else ''}; set training.tune.objective to mae"
            )


class _FoldModel:
    """The growing model of one fold and its newest predictions."""

    def __init__(self, fold: BinnedFold, params: dict[str, Any], objective: Objective) -> None:
        self.booster = lgb.Booster(params, fold.training)
        self.booster.add_valid(fold.validation, "validation")
        self._popularity = fold.popularity
        scale = np.abs(fold.popularity) if objective == "mape" else 1.0
        self._weights = np.broadcast_to(1.0 / scale, fold.popularity.shape)
        #: LightGBM's own buffer, float64 (validation posts,): to be copied before the next round.
        self.predictions = np.zeros(0)

    def advance(self) -> float:
        """One more round; the objective on the fold's posts."""
        self.booster.update()
        self.booster.eval_valid(feval=self._capture)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float((np.abs(self._popularity - self.predictions) * self._weights).mean())
        if not np.isfinite(mean):
            raise SmpRayError(f"LightGBM's predictions are not finite after round {self.booster.current_iteration()}")
        return mean

    def _capture(self, predictions: np.ndarray, _: lgb.Dataset) -> tuple[str, float, bool]:
        # LightGBM keeps the validation posts' scores as it grows trees, dart's rescaling included, and hands them to
        # an evaluation function: no tree is ever walked twice.
        self.predictions = predictions
        return "unused", 0.0, False


class Lockstep:
    """One model a fold, grown together.

    Args:
        folds: the binned folds; the same ones serve any number of runs, one after the other.
        params: complete LightGBM parameters, see `complete_params`.
        objective: what is averaged over the folds.

    Attributes:
        rounds: rounds grown.
        best: lowest mean objective so far (without early stopping: the latest one).
        best_round: its number of rounds.
        best_predictions: float64 (validation posts,) a fold, of that round. They are copies, not a model cut short:
            dart goes on changing the weights of earlier trees.
    """

    def __init__(self, folds: Sequence[BinnedFold], params: dict[str, Any], objective: Objective) -> None:
        self._folds = folds
        self._models = [_FoldModel(fold, params, objective) for fold in folds]
        self.rounds = 0
        self.best = float("inf")
        self.best_round = 0
        self.best_predictions = [np.zeros(len(fold.popularity)) for fold in folds]

    def run(self, max_rounds: int, early_stopping_rounds: int | None) -> Iterator[float]:
        """Grow until there is no better mean for `early_stopping_rounds` rounds (None: all rounds, the last counts).

        Yields:
            After each round, the mean objective of that round.
        """
        while self.rounds < max_rounds:
            # Every round is judged, as that takes 0.1 to 0.3 ms a fold: 2 % of growing the round for 3,000 posts and
            # 40 columns, 1.4 % for 25,000 and 100.
            mean = float(np.mean([model.advance() for model in self._models]))
            self.rounds += 1
            if mean < self.best or early_stopping_rounds is None:
                self.best, self.best_round = mean, self.rounds
                for kept, model in zip(self.best_predictions, self._models, strict=True):
                    kept[:] = model.predictions
            yield mean
            if early_stopping_rounds is not None and self.rounds - self.best_round >= early_stopping_rounds:
                return

    def out_of_fold(self, posts: int) -> np.ndarray:
        """The best round's predictions, float64 (posts,), at the posts' places in `Splits`; NaN for all others."""
        prediction = np.full(posts, np.nan)
        for fold, values in zip(self._folds, self.best_predictions, strict=True):
            prediction[fold.positions] = values
        return prediction

    def pooled_metrics(self) -> dict[str, float | None]:
        """`src`, `mae` and `mape` of the best round's predictions of all folds together."""
        labels = np.concatenate([fold.popularity for fold in self._folds])
        return score(labels, np.concatenate(self.best_predictions))

    def fold_metrics(self) -> list[dict[str, Any]]:
        """`fold`, `posts`, `src`, `mae` and `mape` of each fold at the best round."""
        found = []
        for fold, values in zip(self._folds, self.best_predictions, strict=True):
            found += by_fold(fold.popularity, values, np.full(len(values), fold.fold))
        return found


def out_of_fold(
    folds: Sequence[FoldData],
    params: Mapping[str, Any],
    *,
    objective: Objective,
    max_rounds: int,
    early_stopping_rounds: int | None,
    posts: int,
    max_bin: int = 255,
    threads: int = 1,
    seed: int = 0,
) -> OutOfFold:
    """Train one model a fold and predict the posts that it did not see.

    Args:
        folds: matrices and labels of each fold.
        params: LightGBM parameters; what is not given is as in `complete_params`.
        objective: decides the number of rounds, and the loss unless `params` has an `objective`.
        max_rounds: boosting rounds at most.
        early_stopping_rounds: rounds without a better mean over the folds; None: `max_rounds` rounds, come what may.
        posts: number of posts in `Splits`.
        max_bin: histogram bins a column.
        threads: LightGBM's.
        seed: of bagging and of the choice of columns.

    Raises:
        DataError: the objective is undefined for a label.
    """
    check_labels([fold.validation_popularity for fold in folds], objective)
    complete = complete_params({"max_bin": max_bin, **params}, objective, seed, threads)
    binned = [bin_fold(fold, dataset_params(complete)) for fold in folds]
    began = time.perf_counter()
    lockstep = Lockstep(binned, complete, objective)
    for _ in lockstep.run(max_rounds, early_stopping_rounds):
        pass
    seconds = time.perf_counter() - began
    return OutOfFold(
        lockstep.out_of_fold(posts), lockstep.best, lockstep.best_round, lockstep.fold_metrics(), round(seconds, 3)
    )


def fit(matrix: Matrix, popularity: np.ndarray, params: Mapping[str, Any], rounds: int) -> lgb.Booster:
    """The final model: `rounds` rounds on all posts given.

    A final model sees K/(K-1) times as many posts as a fold's; its rounds are not scaled up by that, because the
    number at which the folds began to overfit is known and the other one would be a guess.

    Args:
        matrix: the training posts.
        popularity: their labels, float64 (posts,).
        params: complete LightGBM parameters.
        rounds: boosting rounds.
    """
    booster = lgb.Booster(dict(params), bin_matrix(matrix, popularity, dataset_params(params)))
    for _ in range(rounds):
        booster.update()
    return booster
