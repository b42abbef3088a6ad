"""The sweep's tables, held against loops and against an objective whose important parameter is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from smp_ray.analysis.trials import best_over_time, parallel, parameter_importance
from smp_ray.config import Choice, FloatRange, IntRange
from smp_ray.training.sweep.records import TrialRecord
from smp_ray.training.sweep.tune import trials_table


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
            "fixed": 1.0,
        }
        status = "failed" if number % 10 == 7 else "stopped" if number % 4 == 1 else "completed"
        objective = 1 + abs(np.log10(params["learning_rate"]) + 1.5) + 0.1 * (params["boosting"] == "dart")
        records[number] = TrialRecord(
            number, params, status, None if status == "failed" else objective,  # type: ignore[arg-type]
            seconds=float(rng.uniform(1, 30)), started_after_seconds=5.0 * (number // 2),
        )  # fmt: skip
    space = {
        "learning_rate": FloatRange(type="float", low=1e-3, high=1, log=True),
        "num_leaves": IntRange(type="int", low=8, high=256),
        "bagging_fraction": FloatRange(type="float", low=0.5, high=1),
        "boosting": Choice(type="choice", values=("gbdt", "dart")),
        "extra_trees": Choice(type="choice", values=(True, False)),
        "fixed": FloatRange(type="float", low=1, high=1),
    }
    return trials_table(records, space, 2).to_pandas()


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
    found = parameter_importance(trials)
    assert found["parameter"].iloc[0] == "learning_rate"
    assert found["importance"].iloc[0] > 0.6
    assert found["importance"].sum() == pytest.approx(1)
    assert found["importance"].is_monotonic_decreasing
    assert set(found["parameter"]) == {"learning_rate", "num_leaves", "bagging_fraction", "boosting", "extra_trees"}
    pd.testing.assert_frame_equal(found, parameter_importance(trials))
    others = trials.copy()
    others.loc[others["status"] != "completed", "objective"] = -100.0
    pd.testing.assert_frame_equal(found, parameter_importance(others))


def test_importance_of_a_choice() -> None:
    trials = sweep(30)
    trials["objective"] = (trials["param_boosting"] == "dart") * 1.0 + trials["param_extra_trees"] * 0.1
    found = parameter_importance(trials.assign(status="completed"))
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
        sweep().filter(regex="^(?!param_)").assign(param_fixed=2),
    ],
    ids=["no trials", "none completed", "all alike", "four", "no parameters", "nothing changed"],
)
def test_no_importance_where_there_is_none(trials: pd.DataFrame) -> None:
    found = parameter_importance(trials)
    assert list(found.columns) == ["parameter", "importance"]
    assert found.empty
    assert len(best_over_time(trials)) == len(trials)


def test_parallel_coordinates_are_numbers() -> None:
    trials = sweep()
    frame, labels = parallel(trials)
    known = trials[trials["objective"].notna()].set_index("trial")
    assert frame["trial"].tolist() == known.index.tolist()
    assert len(frame) < len(trials)
    assert labels == {"param_boosting": ["dart", "gbdt"], "param_extra_trees": ["False", "True"]}
    for row in frame.itertuples():
        assert labels["param_boosting"][int(row.param_boosting)] == known.loc[row.trial, "param_boosting"]
        assert labels["param_extra_trees"][int(row.param_extra_trees)] == str(known.loc[row.trial, "param_extra_trees"])
        assert row.param_num_leaves == known.loc[row.trial, "param_num_leaves"]
        assert row.objective == known.loc[row.trial, "objective"]
    numeric = frame.drop(columns="status").dtypes
    assert all(pd.api.types.is_numeric_dtype(dtype) for dtype in numeric)
    empty, _ = parallel(trials.iloc[:0])
    assert list(empty.columns) == list(frame.columns)
