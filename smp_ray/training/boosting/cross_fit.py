"""Growing the models of all folds together, round by round, judged by the mean of their objectives.

`Lockstep` is what a trial, a baseline and a variant of the ablation share; `fit` makes the final model of as many
rounds. One number of rounds is chosen for it by all folds, as `lgb.cv` does, because the final model, trained on all
posts, has no posts left to stop early by. What is reported of a fold has the number that the other folds choose:
chosen by the fold itself it would flatter.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smp_ray.config import TuneConfig
from smp_ray.errors import DataError, SmpRayError
from smp_ray.evaluation.metrics import by_fold, relative_errors, score
from smp_ray.training.boosting.base import Growing, Objective, Predictor
from smp_ray.training.matrix.matrix import FoldData, Matrix


def prepare_folds(predictor: Predictor, folds: Sequence[FoldData], params: dict[str, Any]) -> list[Any]:
    """Each fold as the predictor takes it; the same ones serve any number of runs, one after the other."""
    return [predictor.prepare(fold.training, fold.training_popularity, fold.validation, params) for fold in folds]


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


@dataclass
class Nested:
    """What the other folds choose for one fold.

    Attributes:
        objective: lowest mean objective of the others so far (without early stopping: the latest one).
        rounds: its number of rounds.
        prediction: float64 (validation posts,) of this fold at that round.
    """

    objective: float = float("inf")
    rounds: int = 0
    prediction: np.ndarray = field(default_factory=lambda: np.zeros(0))


class Lockstep:
    """One model a fold, grown together.

    Predictions that are kept are copies, not a model cut short: LightGBM's dart goes on changing the weights of earlier
    trees.

    Attributes:
        rounds: rounds grown.
        best: lowest mean objective of all folds so far (without early stopping: the latest one).
        best_round: its number of rounds.
        best_predictions: float64 (validation posts,) a fold, of that round.
        nested: the same a fold, by the other folds alone. Of one fold only there are no others: it is its own choice.
    """

    def __init__(self, models: Sequence[Growing], folds: Sequence[FoldData], objective: Objective) -> None:
        self._models, self._folds, self._objective = models, folds, objective
        self.rounds = self.best_round = 0
        self.best = float("inf")
        self.best_predictions: list[np.ndarray] = []
        self.nested = [Nested() for _ in folds]
        count = len(folds)
        # Times the objectives of all folds: the mean of the others, to which a fold's own adds exactly 0.
        self._others = (1 - np.eye(count)) / (count - 1) if count > 1 else np.ones((1, 1))

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
            objectives, last_counts = self._objectives(predictions), early_stopping_rounds is None
            mean = float(objectives.mean())
            if mean < self.best or last_counts:
                self.best, self.best_round = mean, self.rounds
                self.best_predictions = [values.copy() for values in predictions]
            for place, others in enumerate((self._others @ objectives).tolist()):
                if others < self.nested[place].objective or last_counts:
                    self.nested[place] = Nested(others, self.rounds, predictions[place].copy())
            yield mean
            if early_stopping_rounds is not None and self.rounds - self.best_round >= early_stopping_rounds:
                return

    def _objectives(self, predictions: Sequence[np.ndarray]) -> np.ndarray:
        means = []
        with np.errstate(over="ignore", invalid="ignore"):
            for fold, values in zip(self._folds, predictions, strict=True):
                labels = fold.validation_popularity
                errors = relative_errors(labels, values) if self._objective == "mape" else np.abs(labels - values)
                means.append(errors.mean())
        if not np.isfinite(means).all():
            raise SmpRayError(f"predictions are not finite after round {self.rounds}")
        return np.array(means)

    def out_of_fold(self, posts: int) -> np.ndarray:
        """Each fold's predictions at the round that the others choose, float64 (posts,).

        At the posts' places in `Splits`; NaN for all others.
        """
        prediction = np.full(posts, np.nan)
        for fold, nested in zip(self._folds, self.nested, strict=True):
            prediction[fold.validation_positions] = nested.prediction
        return prediction

    def metrics(self) -> dict[str, Any]:
        """`src`, `mae` and `mape` of the best round: `metrics` of all folds together, `folds` fold by fold."""
        labels = np.concatenate([fold.validation_popularity for fold in self._folds])
        folds = np.repeat([fold.fold for fold in self._folds], [len(values) for values in self.best_predictions])
        values = np.concatenate(self.best_predictions)
        return {"metrics": score(labels, values), "folds": by_fold(labels, values, folds)}


def cross_fit(
    predictor: Predictor,
    folds: Sequence[FoldData],
    params: Mapping[str, Any],
    settings: TuneConfig,
    rounds: int | None = None,
) -> Lockstep:
    """Train one model a fold to its end, with early stopping or for a given number of rounds.

    The settings' own `params` are not looked at.

    Raises:
        DataError: the objective is undefined for a label.
    """
    check_labels([fold.validation_popularity for fold in folds], settings.objective)
    complete = predictor.complete(params, settings.objective, settings.seed, settings.cpus_per_trial)
    models = [predictor.begin(data, complete) for data in prepare_folds(predictor, folds, complete)]
    lockstep = Lockstep(models, folds, settings.objective)
    stopping = settings.early_stopping_rounds if rounds is None else None
    for _ in lockstep.run(rounds or settings.max_rounds, stopping):
        pass
    return lockstep


def after_rounds(
    predictor: Predictor, fold: FoldData, params: Mapping[str, Any], settings: TuneConfig, rounds: Collection[int]
) -> dict[int, np.ndarray]:
    """One fold's predictions after each of some numbers of rounds, as `Lockstep` has them, to the last bit.

    Returns:
        float64 (validation posts,) by the number of rounds.
    """
    complete = predictor.complete(params, settings.objective, settings.seed, settings.cpus_per_trial)
    growing = predictor.begin(prepare_folds(predictor, [fold], complete)[0], complete)
    found = {}
    for grown in range(1, max(rounds) + 1):
        prediction = growing.grow()
        if grown in rounds:
            found[grown] = prediction.copy()
    return found


def fit(predictor: Predictor, matrix: Matrix, popularity: np.ndarray, params: dict[str, Any], rounds: int) -> Growing:
    """The final model: `rounds` rounds on all posts given, with complete parameters.

    It sees K/(K-1) times as many posts as a fold's; its rounds are not scaled up by that, because the number at which
    the folds began to overfit is known and the other one would be a guess.
    """
    growing = predictor.begin(predictor.prepare(matrix, popularity, None, params), params)
    for _ in range(rounds):
        growing.grow()
    return growing
