"""What the search suggests, and what Optuna knows of an interrupted sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from ray.tune.search.optuna import OptunaSearch

from smp_ray.config import Choice, SearchRange, TuneConfig
from smp_ray.training.boosting.lightgbm import LightGBM
from smp_ray.training.sweep.records import TrialRecord
from smp_ray.training.sweep.search import AGAIN, OBJECTIVE, Suggestions
from tests.training.fold_data import SPACE

RANGES = TuneConfig(space=SPACE).space
FIRST = {name: range_.nearest(LightGBM.defaults[name]) for name, range_ in RANGES.items()}


def search(recorded: Sequence[TrialRecord] = (), seed: int = 3) -> Suggestions:
    return Suggestions(RANGES, LightGBM.defaults, seed, recorded)


def value(params: dict[str, Any]) -> float:
    """Low for a learning rate of 0.04 and 60 leaves."""
    return abs(math.log(params["learning_rate"] / 0.04)) + abs(math.log(params["num_leaves"] / 60))


def tried(suggestions: Suggestions, count: int) -> list[TrialRecord]:
    """Trials one at a time, of which every fifth fails."""
    records = []
    for place in range(count):
        suggested = suggestions.suggest(f"{place}")
        assert isinstance(suggested, dict)
        objective = None if place % 5 == 4 else value(suggested["params"])
        suggestions.on_trial_complete(f"{place}", {OBJECTIVE: math.inf if objective is None else objective})
        status: Any = "failed" if objective is None else "completed"
        records.append(TrialRecord(suggested["number"], suggested["params"], status, objective))
    return records


def test_the_first_suggestion_is_the_predictors_own_and_all_repeat_with_the_seed() -> None:
    records = tried(search(), 20)
    assert records[0].params == FIRST
    assert [record.number for record in records] == list(range(20))
    assert tried(search(), 20) == records
    other = tried(search(seed=4), 20)
    assert all(ours.params != theirs.params for ours, theirs in zip(records[1:], other[1:], strict=True))
    best = np.sort([record.objective for record in tried(search(), 60) if record.objective is not None])
    assert best[0] < 0.5


def test_optuna_is_told_what_is_recorded_and_nothing_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[dict[str, Any], float]] = []
    real = OptunaSearch.add_evaluated_point

    def noted(self: OptunaSearch, parameters: dict[str, Any], value: float, *args: Any, **more: Any) -> None:
        told.append((parameters, value))
        real(self, parameters, value, *args, **more)

    monkeypatch.setattr(OptunaSearch, "add_evaluated_point", noted)
    records = tried(search(), 20)
    kept = [record for record in records if record.number not in (3, 11)]  # these two were in flight
    again = search(kept)
    assert told == [(r.params, math.inf if r.objective is None else r.objective) for r in kept]
    more = tried(again, 10)
    assert [record.number for record in more] == [3, 11, *range(20, 28)]
    assert not {str(record.params) for record in more} & {str(record.params) for record in kept}
    # It knows what the others brought: with as many trials of its own it would still draw at random.
    assert np.mean([value(record.params) for record in more]) < np.mean([value(r.params) for r in records[1:11]])


def test_the_first_point_is_tried_if_it_was_lost() -> None:
    records = tried(search(), 5)[1:]
    assert search(records).suggest("a") == {"number": 0, "params": FIRST}


def test_after_the_deadline_one_trial_is_tried_at_most() -> None:
    late = Suggestions(RANGES, LightGBM.defaults, 3, deadline=0)
    assert [late.suggest(name) for name in "ab"] == [{"number": 0, "params": FIRST}, None]
    late.on_trial_complete("a", {OBJECTIVE: 1.0})
    assert late.suggest("b") == "FINISHED"
    assert Suggestions(RANGES, LightGBM.defaults, 3, tried(search(), 2), 0).suggest("a") == "FINISHED"


def test_a_space_of_few_points_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    space: dict[str, SearchRange] = {"extra_trees": Choice(type="choice", values=(True, False))}
    few = Suggestions(space, {"extra_trees": False}, 0)
    suggested = [few.suggest(name) for name in "abc"]
    assert suggested == [
        {"number": 0, "params": {"extra_trees": False}}, {"number": 1, "params": {"extra_trees": True}}, None,
    ]  # fmt: skip
    monkeypatch.setattr(few._search, "suggest", lambda _: pytest.fail("nothing new is there, and nobody draws"))
    assert few.suggest("c") is None
    few.on_trial_complete("a", error=True)
    assert few.suggest("d") == suggested[0], "one that got lost comes again"
    for name in "bd":
        few.on_trial_complete(name, {OBJECTIVE: 1.0})
    assert few.suggest("c") == "FINISHED"
    none = Suggestions({}, {}, 0)
    assert [none.suggest(name) for name in "ab"] == [{"number": 0, "params": {}}, None]
    assert Suggestions({}, {}, 0, [TrialRecord(0, {}, "completed", 1.0)]).suggest("a") == "FINISHED"


def test_a_trial_whose_process_was_lost_is_suggested_again_as_if_nothing_had_happened() -> None:
    unbroken = tried(search(), 6)
    suggestions = Suggestions(RANGES, LightGBM.defaults, 3, trials=6)
    for place, record in enumerate(unbroken):
        for loss in range(place % (AGAIN + 1)):
            assert suggestions.suggest(f"{place}-{loss}") == {"number": record.number, "params": record.params}
            suggestions.on_trial_complete(f"{place}-{loss}", error=True)
        assert suggestions.suggest(f"{place}") == {"number": record.number, "params": record.params}
        assert place < 5 or suggestions.suggest("more") is None
        objective = math.inf if record.objective is None else record.objective
        suggestions.on_trial_complete(f"{place}", {OBJECTIVE: objective})
    assert suggestions.suggest("more") == "FINISHED"
    hopeless = search()
    for loss in range(AGAIN + 1):
        assert hopeless.suggest(f"{loss}") == {"number": 0, "params": FIRST}
        hopeless.on_trial_complete(f"{loss}", error=True)
    assert hopeless.suggest("next") != {"number": 0, "params": FIRST}
