"""What the sweep tries: Optuna's suggestions through Ray Tune's `OptunaSearch`, numbered, and none of them twice."""

import time
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import count
from typing import Any, cast

import optuna
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from smp_ray.config import SearchRange
from smp_ray.training.sweep.records import TrialRecord

#: What a trial reports to Ray Tune. A failed one reports infinity, so that the search keeps away from it.
OBJECTIVE = "objective"
#: How often a trial that Ray Tune has given up is suggested again.
AGAIN = 1
#: Known points in a row after which a space of few points counts as searched through.
_ATTEMPTS = 100


class Suggestions(Searcher):
    """Suggests a trial's `number` and `params`.

    Args:
        space: what is searched.
        defaults: the predictor's own settings; what is nearest to them in the space is tried first.
        seed: of Optuna's sampler.
        recorded: trials of an interrupted sweep. Optuna is told of them, and draws anew from then on.
        deadline: in `time.time()`; after it, nothing is suggested unless nothing was tried yet.
        trials: how many points are suggested, those recorded included.
    """

    def __init__(
        self,
        space: Mapping[str, SearchRange],
        defaults: Mapping[str, Any],
        seed: int,
        recorded: Collection[TrialRecord] = (),
        deadline: float = float("inf"),
        trials: float = float("inf"),
    ) -> None:
        super().__init__(metric=OBJECTIVE, mode="min")
        #: Of all points that were suggested.
        self._numbers = {frozenset(record.params.items()): record.number for record in recorded}
        self._deadline, self._trials = deadline, trials
        #: What Optuna calls a trial, and what was suggested, by what Ray Tune calls it.
        self._asked: dict[str, tuple[str, dict[str, Any]]] = {}
        #: Those that were given up, to be suggested again, and how often each number was.
        self._lost: list[tuple[str, dict[str, Any]]] = []
        self._given_up: Counter[int] = Counter()
        first = {name: range_.nearest(defaults.get(name)) for name, range_ in space.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Parameters are drawn jointly, and trials in flight count as bad ones, so that those side by side differ.
        # Another seed for each start, or a sweep that goes on would draw what it drew before.
        seed += len(self._numbers)
        self._search = OptunaSearch(
            # Optuna takes no empty space; with none there is one trial, that of the fixed parameters.
            space={name: range_.distribution() for name, range_ in space.items()} or (lambda trial: {}),
            metric=OBJECTIVE,
            mode="min",
            sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
            points_to_evaluate=[] if frozenset(first.items()) in self._numbers else [first],
        )
        for record in recorded if space else ():
            value = float("inf") if record.objective is None else record.objective
            self._search.add_evaluated_point(record.params, value)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's `number` and `params`; `FINISHED` when the space holds nothing new, or time is up.

        None while a trial that is under way may have to be suggested again.
        """
        if self._lost:
            self._asked[trial_id] = self._lost.pop(0)
            return self._asked[trial_id][1]
        over = len(self._numbers) >= self._trials or (time.time() >= self._deadline and self._numbers)
        for attempt in range(0 if over else _ATTEMPTS):
            asked = f"{trial_id}/{attempt}"
            params = dict(self._search.suggest(asked) or {})
            point = frozenset(params.items())
            if point not in self._numbers:
                taken = set(self._numbers.values())
                self._numbers[point] = number = next(number for number in count() if number not in taken)
                self._asked[trial_id] = asked, {"number": number, "params": params}
                return self._asked[trial_id][1]
            self._search.on_trial_complete(asked, error=True)  # it says nothing new
        self._trials = len(self._numbers)  # Tune goes on asking, several times a second, while others run
        if self._asked:
            return None
        return cast(None, Searcher.FINISHED)  # a text, which Tune compares with; its types know of None alone

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended; one whose process died counts as the worst.

        Once it is suggested again: Ray Tune, which else tries three times more, gives up a trial at once whose reused
        process dies before it begins.
        """
        asked, suggested = self._asked.pop(trial_id)
        if error and not result and self._given_up[suggested["number"]] < AGAIN:
            self._given_up[suggested["number"]] += 1
            self._lost.append((asked, suggested))
            return
        self._search.on_trial_complete(asked, result or {OBJECTIVE: float("inf")})

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a sweep goes on from its trials' records."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""
