"""Which trials a sweep makes and which it ends early: the same for the same seed, whatever the timing.

Trials run side by side and end in any order, and a sweep may be killed and started again. So that none of this decides
what is tried, trials are numbered, and whatever is decided about a trial (`InOrder`: its parameters; `OrderedASHA`: at
which rung it ends) follows from the results of those that ended before it began by the sweep's own clock, see
`sweep_clock`.

That is also why an interrupted sweep is not restored from Ray's own state (`Tuner.restore`): Ray keeps no state of the
scheduler, and it copies the states of trials and searcher one after the other, so that a kill in between leaves a
searcher that waits for a result which never comes. The records of the trials say all there is to know.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from smp_ray.config import Choice, FloatRange, SearchRange, TuneConfig
from smp_ray.training.boosting.lightgbm_params import default_point
from smp_ray.training.sweep.sweep_clock import SweepClock, round_work
from smp_ray.training.sweep.trial_files import OBJECTIVE, RECORD, ROUNDS, TrialRecord

#: Lost processes that a trial survives. Ray's own retries pass over one that is lost between two trials.
MAX_DEATHS = 3


def distributions(space: Mapping[str, SearchRange]) -> dict[str, BaseDistribution]:
    """The configured space in Optuna's terms."""
    found: dict[str, BaseDistribution] = {}
    for name, range_ in space.items():
        if isinstance(range_, Choice):
            found[name] = CategoricalDistribution(range_.values)
        elif isinstance(range_, FloatRange):
            found[name] = FloatDistribution(range_.low, range_.high, log=range_.log)
        else:
            found[name] = IntDistribution(range_.low, range_.high, log=range_.log)
    return found


def unknown_to(slots: int) -> int:
    """How many of the trials before it a suggestion does not know.

    With no order at all it would not know `slots - 1`, those that run beside it. With just these, trials wait until it
    is certain which of the running ones ends first. Twice as many keep nearly all slots busy: by a simulation with the
    40 trials of a real sweep, 97 % of 2, 98 % of 4 and 91 % of 16 slots, where real times spread by 27 % around the
    work.
    """
    return 2 * (slots - 1)


class InOrder(Searcher):
    """Optuna's TPE, through Ray's `OptunaSearch`, asked and told in an order that only the results decide.

    The first suggestion is LightGBM's own settings, so that no sweep is worse than these. Each further one knows
    all trials but the `unknown_to` last, in the order in which they end by the sweep's clock; until it is certain
    which these are there is none, and results that came too early are held back.

    Args:
        settings: space, seed and number of trials.
        slots: trials side by side, by the sweep's clock.
        posts: number of posts that a trial learns from.
        recorded: trials of an interrupted sweep, by number. One whose parameters are what is suggested now is taken
            as it is and not run.
        on_end: called with the record of each trial that ends.
        deadline: no new trials from then on, in `time.time()`.

    Attributes:
        ended: records of the trials that are over, by number.
    """

    def __init__(
        self,
        settings: TuneConfig,
        slots: int,
        posts: int,
        recorded: Mapping[int, TrialRecord] | None = None,
        on_end: Callable[[TrialRecord], None] | None = None,
        deadline: float | None = None,
    ) -> None:
        super().__init__(metric=OBJECTIVE, mode="min")
        self._settings, self._slots, self._posts = settings, slots, posts
        self._unknown = unknown_to(slots)
        self._recorded = dict(recorded or {})
        self._on_end, self._deadline = on_end, deadline
        self.ended: dict[int, TrialRecord] = {}
        #: Numbers of the trials in Ray's hands, by Ray's id; of those to be given to it again; deaths by number.
        self._running: dict[str, int] = {}
        self._again: list[int] = []
        self._deaths: Counter[int] = Counter()
        #: Whether the deadline has passed.
        self._over = False
        self._begin()

    def _begin(self) -> None:
        self._clock = SweepClock(self._slots, self._settings.trials)
        self._suggested: list[dict[str, Any]] = []
        #: Numbers of the trials whose results are known by the sweep's clock, in that order.
        self._known: list[int] = []
        space = self._settings.space
        if not space:  # then all trials are alike but for their seed; Optuna takes no empty space
            return
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._tpe = OptunaSearch(
            space=distributions(space),
            metric=OBJECTIVE,
            mode="min",
            # Optuna's own choices, spelled out: parameters are drawn jointly (which found better ones in a
            # simulation, too), and trials in flight count as bad ones, so that those side by side differ.
            sampler=optuna.samplers.TPESampler(seed=self._settings.seed, multivariate=True, constant_liar=True),
            points_to_evaluate=[default_point(space)],
        )

    def known_to(self, number: int) -> list[TrialRecord]:
        """The trials whose results the suggestion of trial `number` knew of."""
        return [self.ended[known] for known in self._known[: max(0, number - self._unknown)]]

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's `number` and `params`; None while it has to wait; `FINISHED` when there are no more."""
        if self._again:
            return self._given(trial_id, self._again.pop(0))
        while not self._over and (number := len(self._suggested)) < self._settings.trials:
            params = self._next()
            if params is None:
                return None
            record = self._recorded.get(number)
            if record is not None and record.params == params:
                self._end(record)
                continue
            if self._deadline is not None and time.time() >= self._deadline and self.ended:
                self._over = True
                break
            return self._given(trial_id, number)
        # While trials run, the process of one may be lost, and the trial needed again.
        return None if self._running else str(Searcher.FINISHED)

    def _given(self, trial_id: str, number: int) -> dict[str, Any]:
        self._running[trial_id] = number
        return {"number": number, "params": self._suggested[number]}

    def _next(self) -> dict[str, Any] | None:
        """The next suggestion, knowing what it has to know; None: that is not certain yet."""
        number = len(self._suggested)
        while len(self._known) < number - self._unknown:
            known = self._clock.next_end()
            if known is None:
                return None
            self._known.append(known)
            if self._settings.space:
                value = self.ended[known].objective
                self._tpe.on_trial_complete(
                    str(known), None if value is None else {OBJECTIVE: value}, error=value is None
                )
        params = dict(self._tpe.suggest(str(number)) or {}) if self._settings.space else {}
        self._suggested.append(params)
        return params

    def _work(self, number: int, rounds: int) -> float:
        return rounds * round_work({**self._settings.params, **self._suggested[number]}, self._posts)

    def _end(self, record: TrialRecord) -> None:
        self.ended[record.number] = record
        self._clock.end(record.number, self._work(record.number, record.rounds_trained))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note how far a trial is, which may make certain that another one ends before it."""
        number = self._running.get(trial_id)
        if number is not None:
            self._clock.progress(number, self._work(number, int(result[ROUNDS])))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take the record of a trial that Ray has ended; `error`: its process died."""
        number = self._running.pop(trial_id, None)
        if number is None:
            return
        if error or not result or RECORD not in result:
            self._deaths[number] += 1
            if self._deaths[number] <= MAX_DEATHS:
                self._again.append(number)
                return
            # Without a file in the workspace: when the sweep is started again, the trial is run again.
            reason = "its process died (out of memory?) or could not start; Ray's log tells more"
            self._end(TrialRecord(number, self._suggested[number], "failed", error=reason))
            return
        record = TrialRecord.from_json(result[RECORD])
        self._end(record)
        if self._on_end is not None:
            self._on_end(record)

    def save(self, checkpoint_path: str) -> None:
        """Write what `restore` needs: suggestions follow from the results and from how far the others are."""
        state = {
            "ended": self.ended, "running": self._running, "suggested": len(self._suggested),
            "work": self._clock.work(), "again": self._again, "deaths": self._deaths,
        }  # fmt: skip
        with open(checkpoint_path, "wb") as file:
            pickle.dump(state, file)

    def restore(self, checkpoint_path: str) -> None:
        """Go on from what `save` wrote, with the settings given to this object."""
        with open(checkpoint_path, "rb") as file:
            state = pickle.load(file)
        self._begin()
        self.ended.clear()
        self._running, self._again, self._deaths = state["running"], state["again"], state["deaths"]
        while len(self._suggested) < state["suggested"]:
            number = len(self._suggested)
            self._next()
            if number in state["ended"]:
                self._end(state["ended"][number])
            else:
                self._clock.progress(number, state["work"].get(number, 0.0))
