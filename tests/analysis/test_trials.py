"""The sweep's tables, held against loops and against an objective whose important parameter is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from smp_ray.analysis.trials import best_over_time, parameter_importance, study_of
from smp_ray.config import Choice, FloatRange, IntRange, SearchRange
from smp_ray.training.sweep.records import TrialRecord
from smp_ray.training.sweep.tune import trials_table

SPACE: dict[str, SearchRange] = {
    "learning_rate": FloatRange(type="float", low=1e-3, high=1, log=True),
    "num_leaves": IntRange(type="int", low=8, high=256),
    "bagging_fraction": FloatRange(type="float", low=0.5, high=1),
    "boosting": Choice(type="choice", values=("gbdt", "dart")),
    "extra_trees": Choice(type="choice", values=(True, False)),
    "mixed": Choice(type="choice", values=(0.5, "auto")),
    "fixed": FloatRange(type="float", low=1, high=1),
}


def sweep(count: int = 40) -> pd.DataFrame:
    """Trials as the sweep stores them; learning_rate decides, bagging_fraction does nothing."""
    rng = np.random.default_rng(0)
    records = {}
    for number in range(count):
        params = {
            "learning_rate": float(10 ** rng.uniform(-3, 0)),
            "num_leaves": int(rng.integers(8, 257)),
            "bagging_fraction": float(rng.uniform(0.5, 1)),
            "boosting": str(rng.choice(["gbdt", "dart"])),
            "extra_trees": bool(rng.integers(2)),
            "mixed": (0.5, "auto")[number % 2],
            "fixed": 1.0,
        }
        status = "failed" if number % 10 == 7 else "stopped" if number % 4 == 1 else "completed"
        objective = 1 + abs(np.log10(params["learning_rate"]) + 1.5) + 0.1 * (params["boosting"] == "dart")
        records[number] = TrialRecord(
            number, params, status, None if status == "failed" else objective,  # type: ignore[arg-type]
            seconds=float(rng.uniform(1, 30)), started_after_seconds=5.0 * (number // 2),
        )  # fmt: skip
    return trials_table(records, SPACE, 2).to_pandas()


def test_best_over_time_agrees_with_a_loop() -> None:
    trials = sweep()
    found = best_over_time(trials)
    assert list(found.columns) == ["trial", "finished_after_seconds", "objective", "best", "status"]
    ends = {row.trial: row.started_after_seconds + row.seconds for row in trials.itertuples()}
    objective = trials.set_index("trial")["objective"]
    best = np.inf
    order = sorted(ends, key=lambda trial: ends[trial])
    assert order != sorted(order)
    for trial, row in zip(order, found.itertuples(), strict=True):
        if not np.isnan(objective[trial]):
            best = min(best, objective[trial])
        assert (row.trial, row.finished_after_seconds, row.best) == (trial, ends[trial], best)


def test_a_first_trial_that_failed_has_no_best() -> None:
    trials = sweep(4).assign(objective=[np.nan, 2.0, np.nan, 3.0], started_after_seconds=[0.0, 50, 100, 150])
    assert best_over_time(trials)["best"].fillna(-1).tolist() == [-1, 2, 2, 2]


def test_the_parameter_that_decides_is_the_most_important() -> None:
    trials = sweep(80)
    found = parameter_importance(trials, SPACE)
    assert found["parameter"].iloc[0] == "learning_rate"
    assert found["importance"].iloc[0] > 0.6
    assert found["importance"].sum() == pytest.approx(1)
    assert found["importance"].is_monotonic_decreasing
    assert set(found["parameter"]) >= set(SPACE) - {"fixed"}
    pd.testing.assert_frame_equal(found, parameter_importance(trials, SPACE))
    others = trials.copy()
    others.loc[others["status"] != "completed", "objective"] = -100.0
    pd.testing.assert_frame_equal(found, parameter_importance(others, SPACE))


def test_importance_of_a_choice() -> None:
    trials = sweep(30)
    trials["objective"] = (trials["param_boosting"] == "dart") * 1.0 + trials["param_extra_trees"] * 0.1
    found = parameter_importance(trials.assign(status="completed"), SPACE)
    assert found["parameter"].tolist()[:2] == ["boosting", "extra_trees"]
    assert found["importance"].iloc[0] > 0.9


@pytest.mark.parametrize(
    "trials",
    [
        sweep().iloc[:0],
        sweep().assign(status="stopped"),
        sweep().assign(objective=1.0),
        sweep().query("status == 'completed'").iloc[:4],
        sweep().filter(regex="^(?!param_)"),
        sweep().filter(regex="^(?!param_)").assign(param_fixed=1.0),
    ],
    ids=["no trials", "none completed", "all alike", "four", "no parameters", "nothing changed"],
)
def test_no_importance_where_there_is_none(trials: pd.DataFrame) -> None:
    found = parameter_importance(trials, SPACE)
    assert list(found.columns) == ["parameter", "importance"]
    assert found.empty
    assert len(best_over_time(trials)) == len(trials)


def test_a_study_holds_every_trial_that_has_a_score_as_it_was_tried() -> None:
    trials = sweep()
    found = study_of(trials, SPACE)
    known = trials[trials["objective"].notna()]
    assert [trial.value for trial in found.trials] == known["objective"].tolist()
    assert found.best_value == known["objective"].min()
    first = found.trials[0].params
    assert first["mixed"] == 0.5  # stored as JSON beside "auto"
    assert first["extra_trees"] in (True, False)
    assert first["learning_rate"] == known["param_learning_rate"].iloc[0]
    assert found.trials[0].distributions["learning_rate"].to_external_repr(0.1) == 0.1
    assert set(first) == set(SPACE)
