"""Growing the models of all folds together, round by round, judged by the mean of their objectives.

`Lockstep` is what a trial, a baseline and a variant of the ablation share; `fit` makes the final model of as many
rounds. One number of rounds is chosen for all folds, as `lgb.cv` does, because the final model, trained on all posts,
has no posts left to stop early by and is given that number.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smp_ray.errors import DataError, SmpRayError
from smp_ray.evaluation.metrics import by_fold, score
from smp_ray.training.boosting.base import Growing, Objective, Predictor
from smp_ray.training.matrix.matrix import FoldData, Matrix


@dataclass(frozen=True)
class PreparedFold:
    """A fold as a predictor takes it.

    Attributes:
        fold: number of the fold.
        data: see `Predictor.prepare`.
        popularity: float64 (validation posts,), the labels.
        positions: int64 (validation posts,), places of the validation posts in `Splits`.
    """

    fold: int
    data: Any
    popularity: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of posts by models that did not see them.

    Attributes:
        prediction: float64 (posts of `Splits`,); NaN where no fold judged the post.
        objective: mean over the folds of their MAE or MAPE.
        rounds: rounds of every fold's model.
        folds: `fold`, `posts`, `src`, `mae` and `mape` of each fold.
        seconds: for training, without preparing the data.
    """

    prediction: np.ndarray
    objective: float
    rounds: int
    folds: list[dict[str, Any]]
    seconds: float


def prepare_folds(predictor: Predictor, folds: Sequence[FoldData], params: dict[str, Any]) -> list[PreparedFold]:
    """All folds as the predictor takes them; the same ones serve any number of runs, one after the other."""
    return [
        PreparedFold(
            fold.fold,
            predictor.prepare(fold.training, fold.training_popularity, fold.validation, params),
            fold.validation_popularity,
            fold.validation_positions,
        )
        for fold in folds
    ]


def check_labels(labels: Sequence[np.ndarray], objective: Objective) -> None:
    """Whether the objective is defined on these validation labels, an array a fold.

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


class Lockstep:
    """One model a fold, grown together.

    Args:
        predictor: what is grown.
        folds: the prepared folds.
        params: complete parameters, see `Predictor.complete`.
        objective: what is averaged over the folds.

    Attributes:
        rounds: rounds grown.
        best: lowest mean objective so far (without early stopping: the latest one).
        best_round: its number of rounds.
        best_predictions: float64 (validation posts,) a fold, of that round. They are copies, not a model cut short:
            LightGBM's dart goes on changing the weights of earlier trees.
    """

    def __init__(
        self, predictor: Predictor, folds: Sequence[PreparedFold], params: dict[str, Any], objective: Objective
    ) -> None:
        self._folds, self._objective = folds, objective
        self._models = [predictor.begin(fold.data, params) for fold in folds]
        self.rounds = self.best_round = 0
        self.best = float("inf")
        self.best_predictions = [np.zeros(len(fold.popularity)) for fold in folds]

    def run(self, max_rounds: int, early_stopping_rounds: int | None) -> Iterator[float]:
        """Grow until there is no better mean for `early_stopping_rounds` rounds (None: all rounds, the last counts).

        Yields:
            After each round, the mean objective of that round.
        """
        while self.rounds < max_rounds:
            # Every round is judged, as that takes 0.1 to 0.3 ms a fold: 2 % of growing the round for 3,000 posts and
            # 40 columns, 1.4 % for 25,000 and 100.
            predictions = [model.grow() for model in self._models]
            self.rounds += 1
            mean = self._mean(predictions)
            if mean < self.best or early_stopping_rounds is None:
                self.best, self.best_round = mean, self.rounds
                for kept, values in zip(self.best_predictions, predictions, strict=True):
                    kept[:] = values
            yield mean
            if early_stopping_rounds is not None and self.rounds - self.best_round >= early_stopping_rounds:
                return

    def _mean(self, predictions: Sequence[np.ndarray]) -> float:
        means = []
        with np.errstate(over="ignore", invalid="ignore"):
            for fold, values in zip(self._folds, predictions, strict=True):
                errors = np.abs(fold.popularity - values)
                means.append((errors / np.abs(fold.popularity) if self._objective == "mape" else errors).mean())
        if not np.isfinite(means).all():
            raise SmpRayError(f"predictions are not finite after round {self.rounds}")
        return float(np.mean(means))

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
        labels = np.concatenate([fold.popularity for fold in self._folds])
        folds = np.concatenate([np.full(len(fold.popularity), fold.fold) for fold in self._folds])
        return by_fold(labels, np.concatenate(self.best_predictions), folds)


def out_of_fold(
    predictor: Predictor,
    folds: Sequence[FoldData],
    params: Mapping[str, Any],
    *,
    objective: Objective,
    max_rounds: int,
    early_stopping_rounds: int | None,
    posts: int,
    threads: int = 1,
    seed: int = 0,
) -> OutOfFold:
    """Train one model a fold and predict the posts that it did not see.

    Args:
        predictor: what is trained.
        folds: matrices and labels of each fold.
        params: the predictor's; what is not given is as in `Predictor.complete`.
        objective: decides the number of rounds, and the loss unless `params` does.
        max_rounds: rounds at most.
        early_stopping_rounds: rounds without a better mean over the folds; None: `max_rounds` rounds, come what may.
        posts: number of posts in `Splits`.
        threads: the predictor's.
        seed: of all that it draws.

    Raises:
        DataError: the objective is undefined for a label.
    """
    check_labels([fold.validation_popularity for fold in folds], objective)
    complete = predictor.complete(params, objective, seed, threads)
    lockstep = Lockstep(predictor, prepare_folds(predictor, folds, complete), complete, objective)
    began = time.perf_counter()
    for _ in lockstep.run(max_rounds, early_stopping_rounds):
        pass
    seconds = round(time.perf_counter() - began, 3)
    return OutOfFold(lockstep.out_of_fold(posts), lockstep.best, lockstep.best_round, lockstep.fold_metrics(), seconds)


def fit(predictor: Predictor, matrix: Matrix, popularity: np.ndarray, params: dict[str, Any], rounds: int) -> Growing:
    """The final model: `rounds` rounds on all posts given, with complete parameters.

    It sees K/(K-1) times as many posts as a fold's; its rounds are not scaled up by that, because the number at which
    the folds began to overfit is known and the other one would be a guess.
    """
    growing = predictor.begin(predictor.prepare(matrix, popularity, None, params), params)
    for _ in range(rounds):
        growing.grow()
    return growing
