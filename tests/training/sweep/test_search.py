"""What a sweep tries and ends early does not depend on timing, interruptions or restarts.

`Stage` plays Ray: it runs trials of a made-up objective side by side, with speeds that a seed decides.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from ray.tune.schedulers import TrialScheduler

from smp_ray.config import AshaConfig, FloatRange, TuneConfig
from smp_ray.training.boosting.lightgbm_params import default_point
from smp_ray.training.sweep.halving import OrderedASHA
from smp_ray.training.sweep.search import MAX_DEATHS, InOrder, distributions, unknown_to
from smp_ray.training.sweep.sweep_clock import SweepClock, round_work
from smp_ray.training.sweep.trial_files import OBJECTIVE, RECORD, ROUNDS, TrialRecord
from tests.training.fold_data import SPACE

POSTS = 500
RUNGS = (20, 60, 180)
SETTINGS = TuneConfig(
    trials=24, seed=3, max_rounds=400, asha=AshaConfig(grace_rounds=20, reduction_factor=3), space=SPACE
)
TIMINGS = range(6)


def length(params: dict[str, Any]) -> int:
    """Rounds of the made-up trial until it stops by itself."""
    return 30 + int(params["num_leaves"]) + int(3 / params["learning_rate"])


def value(params: dict[str, Any], rounds: int) -> float:
    """Its objective after some rounds: low for middling parameters, falling with the rounds."""
    distance = abs(math.log(params["learning_rate"] / 0.04)) + abs(math.log(params["num_leaves"] / 60))
    return distance + params["lambda_l1"] / 10 + math.exp(-rounds * params["learning_rate"] / 3)


@dataclass
class Trial:
    number: int
    params: dict[str, Any]
    speed: float
    rounds: int = 0
    rungs: list[float] = field(default_factory=list)

    def record(self, status: Any) -> TrialRecord:
        return TrialRecord(
            self.number, self.params, status, value(self.params, self.rounds), self.rounds, self.rounds, [*self.rungs]
        )


class Stage:
    """Runs the trials that a search suggests."""

    def __init__(self, search: InOrder, timing: int, slots: int, settings: TuneConfig = SETTINGS) -> None:
        self.search, self.slots, self.settings = search, slots, settings
        self.random = np.random.default_rng(timing)
        self.now = 0.0
        self.trials: dict[str, Trial] = {}
        self.events: list[tuple[float, str]] = []
        self.waited = self.steps = 0
        self.end_order: list[int] = []

    def run(self, before_step: Callable[[Stage], None] = lambda stage: None) -> dict[int, TrialRecord]:
        while True:
            before_step(self)
            self.start_trials()
            if not self.events:
                return self.search.ended
            self.steps += 1
            self.now, trial_id = heapq.heappop(self.events)
            self.advance(trial_id)

    def start_trials(self) -> None:
        while len(self.trials) < self.slots:
            trial_id = f"{self.steps}-{len(self.trials)}-{self.random.integers(10**9)}"
            suggested = self.search.suggest(trial_id)
            if not isinstance(suggested, dict):
                self.waited += suggested is None
                return
            self.trials[trial_id] = Trial(**suggested, speed=float(self.random.lognormal(sigma=1.5)))
            self.schedule(trial_id)

    def schedule(self, trial_id: str) -> None:
        heapq.heappush(self.events, (self.now + self.random.random() / self.trials[trial_id].speed, trial_id))

    def advance(self, trial_id: str) -> None:
        trial, end = self.trials[trial_id], length(self.trials[trial_id].params)
        rung = RUNGS[len(trial.rungs)] if len(trial.rungs) < len(RUNGS) else end
        trial.rounds = min(trial.rounds + int(self.random.integers(1, 50)), rung, end)
        result: dict[str, Any] = {OBJECTIVE: value(trial.params, trial.rounds), ROUNDS: trial.rounds}
        if trial.rounds == rung < end:
            trial.rungs.append(result[OBJECTIVE])
            result[RECORD] = trial.record("stopped").to_json()
        if trial.rounds == end:
            trial.rungs += [result[OBJECTIVE]] * (len(RUNGS) - len(trial.rungs))
            result[RECORD] = trial.record("completed").to_json()
        assert self.settings.asha
        asha = OrderedASHA(self.settings.asha, self.settings.max_rounds, self.search.known_to)
        if asha.on_trial_result(None, None, result) == TrialScheduler.STOP or trial.rounds == end:
            del self.trials[trial_id]
            self.end_order.append(trial.number)
            self.search.on_trial_complete(trial_id, result)
        else:
            self.search.on_trial_result(trial_id, result)
            self.schedule(trial_id)

    def restart_trials(self) -> None:
        """Every running trial begins again, as after a kill."""
        for trial in self.trials.values():
            trial.rounds, trial.rungs = 0, []


def sweep(timing: int, slots: int, settings: TuneConfig = SETTINGS) -> Stage:
    stage = Stage(InOrder(settings, slots, POSTS), timing, slots, settings)
    stage.run()
    return stage


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_a_sweep_is_the_same_whatever_the_timing(slots: int) -> None:
    stages = [sweep(timing, slots) for timing in TIMINGS]
    for stage in stages:
        assert sorted(stage.search.ended) == list(range(SETTINGS.trials))
        assert stage.search.ended == stages[0].search.ended
    statuses = {record.status for record in stages[0].search.ended.values()}
    assert statuses == {"completed", "stopped"}
    if slots > 1:  # the timings did differ, and it took waiting to make up for that
        assert len({tuple(stage.end_order) for stage in stages}) == len(stages)
        assert all(stage.waited for stage in stages)


def test_without_the_order_timing_decides() -> None:
    # Or the tests here would hold for any searcher: Optuna's suggestions do depend on which results are in.
    def suggestion(told: range) -> dict[str, Any]:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=3, multivariate=True, n_startup_trials=5))
        trials = [study.ask(distributions(SETTINGS.space)) for _ in range(12)]
        for place in told:
            study.tell(trials[place], value(trials[place].params, 100))
        return study.ask(distributions(SETTINGS.space)).params

    assert suggestion(range(6)) == suggestion(range(6))
    assert suggestion(range(6)) != suggestion(range(6, 12))


def test_a_suggestion_knows_all_but_the_last_that_ended_by_the_sweeps_clock() -> None:
    stage = sweep(0, 3)
    ends: list[tuple[float, int]] = []
    free = [0.0, 0.0, 0.0]
    for number in range(SETTINGS.trials):
        record = stage.search.ended[number]
        end = heapq.heappop(free) + record.rounds_trained * round_work(record.params, POSTS)
        ends.append((end, number))
        heapq.heappush(free, end)
    in_order = [number for _, number in sorted(ends)]
    for number in range(SETTINGS.trials):
        known = [record.number for record in stage.search.known_to(number)]
        assert known == in_order[: max(0, number - unknown_to(3))]
        assert all(other < number for other in known)


@pytest.mark.parametrize("slots", [2, 8])
def test_slots_are_kept_busy(slots: int) -> None:
    # As in a real sweep: the time of a round over its work spreads by 27 %, results come ten times a trial.
    random = np.random.default_rng(0)
    work = random.lognormal(sigma=0.5, size=200)
    seconds = work * random.lognormal(sigma=0.27, size=200)
    clock, known, begun, running, now = SweepClock(slots, len(work)), 0, 0, 0, 0.0
    events: list[tuple[float, int, int]] = []
    while begun < len(work) or events:
        while clock.next_end() is not None:
            known += 1
        while begun < len(work) and running < slots and known >= begun - unknown_to(slots):
            events += [(now + seconds[begun] * tenth / 10, begun, tenth) for tenth in range(1, 11)]
            heapq.heapify(events)
            begun, running = begun + 1, running + 1
        now, place, tenth = heapq.heappop(events)
        if tenth < 10:
            clock.progress(place, work[place] * tenth / 10)
        else:
            clock.end(place, work[place])
            running -= 1
    assert seconds.sum() / (slots * now) > 0.85  # the last trials alone cost 8 slots some 5 %


def test_the_first_suggestion_is_lightgbms_own() -> None:
    assert sweep(0, 2).search.ended[0].params == default_point(SETTINGS.space)


def test_another_seed_tries_other_parameters() -> None:
    other = sweep(0, 2, SETTINGS.model_copy(update={"seed": 4})).search.ended
    ours = sweep(0, 2).search.ended
    assert all(other[number].params != ours[number].params for number in range(1, SETTINGS.trials))


def test_saved_and_restored_at_any_point(tmp_path: Path) -> None:
    expected = sweep(0, 3).search.ended
    steps = sweep(1, 3).steps
    for point in range(0, steps, 6):

        def restart(stage: Stage, point: int = point) -> None:
            if stage.steps == point:
                stage.search.save(str(tmp_path / "state"))
                stage.search = InOrder(SETTINGS, 3, POSTS)
                stage.search.restore(str(tmp_path / "state"))
                stage.restart_trials()

        stage = Stage(InOrder(SETTINGS, 3, POSTS), 1, 3)
        assert stage.run(restart) == expected, f"restored at step {point} of {steps}"


def test_lost_processes_change_nothing() -> None:
    expected = sweep(0, 3).search.ended

    def lose_one(stage: Stage) -> None:
        if stage.steps % 9 == 4 and stage.trials:
            trial_id, trial = next(iter(stage.trials.items()))
            if stage.search._deaths[trial.number] < MAX_DEATHS:
                del stage.trials[trial_id]
                stage.events = [event for event in stage.events if event[1] != trial_id]
                heapq.heapify(stage.events)
                stage.search.on_trial_complete(trial_id, error=True)

    stage = Stage(InOrder(SETTINGS, 3, POSTS), 1, 3)
    assert stage.run(lose_one) == expected
    assert stage.search._deaths.total() > 5


def test_started_again_from_records_at_any_point() -> None:
    expected = sweep(0, 3).search.ended
    steps = sweep(1, 3).steps
    for point in range(0, steps, 6):
        stage = Stage(InOrder(SETTINGS, 3, POSTS), 1, 3)
        kept: dict[int, TrialRecord] = {}

        def remember(stage: Stage, point: int = point, kept: dict[int, TrialRecord] = kept) -> None:
            if stage.steps == point:
                kept.update(stage.search.ended)

        stage.run(remember)
        fresh: list[int] = []
        search = InOrder(SETTINGS, 3, POSTS, kept, on_end=lambda record, fresh=fresh: fresh.append(record.number))
        assert Stage(search, 2, 3).run() == expected, f"killed at step {point} of {steps}"
        assert sorted([*fresh, *kept]) == list(range(SETTINGS.trials))  # no finished trial was run again


def test_records_of_another_sweep_are_not_taken() -> None:
    foreign = sweep(0, 2, SETTINGS.model_copy(update={"seed": 4})).search.ended
    search = InOrder(SETTINGS, 2, POSTS, foreign)
    assert Stage(search, 0, 2).run() == sweep(1, 2).search.ended


def test_after_the_deadline_no_trial_begins() -> None:
    past = time.time() - 1
    one = InOrder(SETTINGS, 1, POSTS, deadline=past)
    assert list(Stage(one, 0, 1).run()) == [0]  # at least one, or there would be no model
    kept = {number: record for number, record in sweep(0, 1).search.ended.items() if number < 5}
    assert InOrder(SETTINGS, 1, POSTS, kept, deadline=past).suggest("a") == InOrder.FINISHED
    assert InOrder(SETTINGS, 1, POSTS, kept, deadline=past + 1e6).suggest("a") == {
        "number": 5, "params": sweep(0, 1).search.ended[5].params,
    }  # fmt: skip


def test_trials_that_run_at_the_deadline_come_to_their_end() -> None:
    for point in range(20, sweep(0, 3).steps - 20, 5):
        search = InOrder(SETTINGS, 3, POSTS)

        def stop(stage: Stage, point: int = point, search: InOrder = search) -> None:
            if stage.steps == point:
                search._deadline = time.time() - 1
            if stage.steps >= point and stage.search.ended and stage.trials:  # however often Ray asks
                assert [search.suggest("another") for _ in range(20)] == [None] * 20

        ended = Stage(search, 0, 3).run(stop)
        assert sorted(ended) == list(range(len(ended)))
        assert search.suggest("another") == InOrder.FINISHED, f"deadline at step {point}"


def test_failed_trials_are_told_and_passed_over() -> None:
    search = InOrder(SETTINGS, 1, POSTS)
    for number in range(12):
        suggested = search.suggest(f"{number}")
        assert isinstance(suggested, dict)
        if number % 3 == 0:
            for death in range(MAX_DEATHS):
                search.on_trial_complete(f"{number}", error=True)
                assert number not in search.ended
                assert search.suggest(f"{number}") == suggested, death
            search.on_trial_complete(f"{number}", error=True)
            assert "process died" in str(search.ended[number].error)
        else:
            failed = number % 3 == 1
            record = TrialRecord(
                number, suggested["params"], "failed" if failed else "completed", None if failed else float(number)
            )
            search.on_trial_complete(f"{number}", {OBJECTIVE: math.nan, ROUNDS: 0, RECORD: record.to_json()})
    assert [search.ended[number].status for number in range(3)] == ["failed", "failed", "completed"]
    assert search.suggest("next")


def test_an_empty_space_makes_trials_that_differ_by_seed_alone() -> None:
    search = InOrder(SETTINGS.model_copy(update={"space": {}, "trials": 2}), 2, POSTS)
    assert search.suggest("a") == {"number": 0, "params": {}}
    assert search.suggest("b") == {"number": 1, "params": {}}
    assert search.suggest("c") is None
    for number, trial_id in enumerate("ab"):
        search.on_trial_complete(trial_id, {RECORD: TrialRecord(number, {}, "completed", 1.0).to_json()})
    assert search.suggest("c") == InOrder.FINISHED


def ended(number: int, *rungs: float) -> TrialRecord:
    return TrialRecord(number, {}, "stopped", min(rungs), rungs=list(rungs))


def decision(asha: OrderedASHA, record: TrialRecord) -> str:
    return asha.on_trial_result(None, None, {RECORD: record.to_json(), ROUNDS: 1, OBJECTIVE: 0.0})


def test_a_trial_among_the_worse_ends_at_its_rung() -> None:
    known = [ended(0, 5.0, 4.0), ended(1, 3.0, 2.0), ended(2, 1.0, 0.5), ended(3, 6.0)]
    asha = OrderedASHA(AshaConfig(reduction_factor=3), 100, lambda number: known[:number])
    assert asha.cutoff_at(2, 0) is None  # two are too few to name the best third
    assert asha.cutoff_at(3, 0) == pytest.approx(np.percentile([5, 3, 1], 100 / 3))
    assert asha.cutoff_at(4, 0) == pytest.approx(3.0)
    assert asha.cutoff_at(4, 1) == pytest.approx(np.percentile([4, 2, 0.5], 100 / 3))
    assert decision(asha, ended(4, 3.1)) == TrialScheduler.STOP
    assert decision(asha, ended(4, 3.0)) == TrialScheduler.CONTINUE
    assert decision(asha, ended(4, 9.0, 1.4)) == TrialScheduler.CONTINUE  # judged by its latest rung
    assert decision(asha, ended(2, 99.0)) == TrialScheduler.CONTINUE
    finished = TrialRecord(4, {}, "completed", 99.0, rungs=[99.0, 99.0])
    assert decision(asha, finished) == TrialScheduler.CONTINUE  # over anyway
    progress = {ROUNDS: 5, OBJECTIVE: 99.0}
    assert asha.on_trial_result(None, None, progress) == TrialScheduler.CONTINUE


def test_the_next_to_end_is_named_as_soon_as_it_is_certain() -> None:
    clock = SweepClock(3, trials=5)
    assert clock.next_end() is None
    clock.end(1, 10)
    clock.progress(0, 10)  # may end at 10 too, and its number is lower
    clock.progress(2, 10)
    assert clock.next_end() is None
    clock.progress(0, 10.5)
    clock.progress(0, 4)  # it was started again, which takes back nothing
    assert clock.next_end() == 1  # and trial 3 begins, at 10
    clock.end(3, 1)
    clock.end(2, 11.5)
    assert clock.next_end() is None  # trial 0 may end at 10.5
    clock.end(0, 20)
    assert clock.next_end() == 3  # and trial 4 begins, at 11
    assert clock.next_end() is None
    clock.end(4, 3)  # before its turn or after, the clock says the same
    assert [clock.next_end() for _ in range(4)] == [2, 4, 0, None]


def test_a_trial_may_end_before_the_clock_has_begun_it() -> None:
    clock = SweepClock(1, trials=3)
    clock.end(1, 5)
    clock.progress(2, 4)
    assert clock.next_end() is None
    clock.end(0, 1)
    assert [clock.next_end() for _ in range(3)] == [0, 1, None]
    assert clock.work() == {0: 1, 1: 5, 2: 4}


def test_work_grows_with_leaves_columns_and_posts() -> None:
    base = {"num_leaves": 64, "feature_fraction": 0.5}
    work = round_work(base, 10_000)
    assert round_work({**base, "num_leaves": 128}, 10_000) > work
    assert round_work({**base, "feature_fraction": 1.0}, 10_000) > work
    assert round_work({**base, "min_data_in_leaf": 500}, 10_000) < work
    assert round_work({**base, "bagging_fraction": 0.05}, 10_000) < work


def test_a_range_of_one_value_is_allowed() -> None:
    settings = SETTINGS.model_copy(update={"space": {"learning_rate": FloatRange(type="float", low=0.1, high=0.1)}})
    search = InOrder(settings, 2, POSTS)
    assert search.suggest("a") == {"number": 0, "params": {"learning_rate": 0.1}}
    assert search.suggest("b") == {"number": 1, "params": {"learning_rate": 0.1}}
