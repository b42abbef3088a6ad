"""The tune stage with Ray Tune: `sweep`, `trial`, `records` and `tune` as one, killed and disturbed.

It also tests `training/sweep/trial.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest

from smp_ray.config import Config, TuneConfig, build_config
from smp_ray.errors import ConfigError, SmpRayError
from smp_ray.evaluation.metrics import score
from smp_ray.ray_session import RaySession, ray_session
from smp_ray.store.manifest import Manifest
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.cross_fit import cross_fit
from smp_ray.training.boosting.lightgbm import LightGBM
from smp_ray.training.sweep.sweep import trials_at_once
from tests.training.fold_data import POSTS, SPACE, commit_small, small_folds, small_matrix, small_splits
from tests.training.runs import brought, run_with

#: What of a trials table must not depend on timing.
TIMES = ["seconds", "started_after_seconds"]
SWEEP: dict[str, Any] = {
    "trials": 14, "max_rounds": 150, "early_stopping_rounds": 15, "seed": 1, "max_concurrent": 1, "models": 2,
    "asha": {"grace_rounds": 5, "reduction_factor": 3}, "space": SPACE, "params": {"max_bin": 63},
}  # fmt: skip
#: Trials that take long enough to be killed in.
SLOW: dict[str, Any] = {
    "trials": 40, "max_concurrent": 2, "models": 1, "max_rounds": 1500, "early_stopping_rounds": 1500, "asha": None,
}  # fmt: skip


def config_of(folder: Path | str, **changes: Any) -> Config:
    training = {"tune": {**SWEEP, **changes}}
    return build_config({"workspace": str(folder), "source": {"kind": "demo"}, "training": training})


def run_tune(config: Config, session: RaySession) -> Manifest:
    return brought(run_with(config, session, **commit_small(Workspace.open(config.workspace))), "tune")


def folder_of(config: Config) -> Path:
    """The one artefact of the sweep."""
    (found,) = Path(config.workspace, "tune").iterdir()
    return found


def trials_of(config: Config) -> pd.DataFrame:
    return pq.read_table(folder_of(config) / "trials.parquet").to_pandas()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, session: RaySession) -> tuple[Config, Manifest]:
    """An undisturbed sweep, one trial at a time."""
    config = config_of(tmp_path_factory.mktemp("tuned"))
    return config, run_tune(config, session)


def test_a_trial_that_ends_at_a_rung_is_completed(session: RaySession, tmp_path: Path) -> None:
    """With its first rung after 5 rounds and three times as many for each further one, the second is the end."""
    config = config_of(tmp_path, trials=1, max_rounds=15, models=1)
    run_tune(config, session)
    trials = trials_of(config)
    assert trials["status"].tolist() == ["completed"]


def test_every_trial_has_its_row_and_bad_ones_are_stopped(tuned: tuple[Config, Manifest]) -> None:
    config, manifest = tuned
    trials = trials_of(config)
    assert list(trials["trial"]) == list(range(SWEEP["trials"]))
    assert manifest.rows == SWEEP["trials"]
    assert manifest.counts == trials["status"].value_counts().to_dict()
    stopped, completed = trials[trials["status"] == "stopped"], trials[trials["status"] == "completed"]
    assert len(stopped) + len(completed) == len(trials)
    assert stopped["objective"].median() > completed["objective"].median()
    # At a rung: 5, 15, 45 or 135 rounds of LightGBM's usual learning rate.
    records = [json.loads(path.read_text()) for path in sorted(folder_of(config).glob("trials/*.json"))]
    for record in (one for one in records if one["status"] == "stopped"):
        pace = min(1, record["params"]["learning_rate"] / 0.1)
        assert any((record["rounds_trained"] - 1) * pace < rung <= record["rounds_trained"] * pace
                   for rung in (5, 15, 45, 135))  # fmt: skip
    for name in SPACE:
        assert trials[f"param_{name}"].nunique() > (1 if name == "extra_trees" else 5)
    assert trials["error"].isna().all()
    assert (trials["seconds"] > 0).all()
    means = trials[[f"mae_fold_{fold}" for fold in range(3)]].mean(axis=1)
    np.testing.assert_allclose(trials["objective"], means, atol=1e-12)


def test_trial_0_is_lightgbm_with_its_own_settings(tuned: tuple[Config, Manifest]) -> None:
    first, space = trials_of(tuned[0]).iloc[0], tuned[0].training.tune.space
    assert first["status"] == "completed"
    for name, range_ in space.items():
        assert first[f"param_{name}"] == range_.nearest(LightGBM.defaults[name])


def test_the_best_trials_are_the_final_models_and_the_flattered_variant(tuned: tuple[Config, Manifest]) -> None:
    config, manifest = tuned
    trials, best = trials_of(config), manifest.details["best"]
    chosen = trials.sort_values(["objective", "trial"])[:2]
    assert manifest.details["trials_used"] == chosen["trial"].tolist()
    assert (best["trial"], best["value"]) == tuple(chosen.iloc[0][["trial", "objective"]])
    stored = pq.read_table(folder_of(config) / "out_of_fold.parquet").to_pandas()
    splits, expected = small_splits(), []
    np.testing.assert_array_equal(stored["row_id"], splits.row_ids)
    for row in chosen.to_dict("records"):
        # As found by early stopping, not refitted with the rounds of the record.
        params = {"max_bin": 63, **{name: row[f"param_{name}"] for name in SPACE}}
        rounds = row["rounds"] if row["status"] == "stopped" else None
        found = cross_fit(LightGBM(), small_folds(), params, config.training.tune, rounds)
        prediction = np.full(POSTS, np.nan)
        for fold, values in zip(small_folds(), found.best_predictions, strict=True):
            prediction[fold.validation_positions] = values
        assert (found.best_round, found.best) == (row["rounds"], row["objective"])
        pooled = score(splits.popularity[splits.judged], prediction[splits.judged])
        assert {name: row[name] for name in pooled} == pytest.approx(pooled, abs=1e-12)
        expected.append(prediction)
    np.testing.assert_array_equal(stored["flattered"], np.mean(expected, axis=0))


def test_what_is_reported_of_a_fold_was_chosen_by_the_others(tuned: tuple[Config, Manifest]) -> None:
    config, manifest = tuned
    trials, nested = trials_of(config), pd.DataFrame(manifest.details["nested"])
    stored = pq.read_table(folder_of(config) / "out_of_fold.parquet").to_pandas()
    expected = np.full(POSTS, np.nan)
    for fold, data in enumerate(small_folds()):
        objective, rounds = f"others_objective_{fold}", f"others_rounds_{fold}"
        chosen = trials.sort_values([objective, "trial"])[:2]
        own = nested[nested["fold"] == fold]
        assert own["trial"].tolist() == chosen["trial"].tolist()
        assert own["rounds"].tolist() == chosen[rounds].tolist()
        found = []
        for row in chosen.to_dict("records"):
            params = {"max_bin": 63, **{name: row[f"param_{name}"] for name in SPACE}}
            crossed = cross_fit(LightGBM(), small_folds(), params, config.training.tune, row[rounds])
            found.append(crossed.best_predictions[fold])
            means = [one["mae"] for one in crossed.metrics()["folds"] if one["fold"] != fold]
            assert row[objective] == pytest.approx(np.mean(means), abs=1e-12)
        expected[data.validation_positions] = np.mean(found, axis=0)
    np.testing.assert_array_equal(stored["prediction"], expected)
    assert not np.array_equal(stored["prediction"], stored["flattered"], equal_nan=True)
    assert {name: facts["column"] for name, facts in manifest.details["variants"].items()} == {
        "tuned": "prediction", "tuned_flattered": "flattered",
    }  # fmt: skip


def test_the_model_needs_lightgbm_alone(tuned: tuple[Config, Manifest]) -> None:
    config, manifest = tuned
    matrix, popularity = small_matrix()
    described = json.loads((folder_of(config) / "model" / "columns.json").read_text())
    assert [column["name"] for column in described["columns"]] == list(matrix.names)
    assert described["columns"][0]["levels"] is None
    assert described["columns"][-1]["levels"] == ["dog", "cat", "sea", "food"]
    assert [one["trial"] for one in described["trials"]] == manifest.details["trials_used"]
    boosters = [lgb.Booster(model_file=str(folder_of(config) / "model" / name)) for name in described["models"]]
    assert [booster.num_trees() for booster in boosters] == [one["rounds"] for one in described["trials"]]
    assert manifest.details["models"] == [f"tune/{manifest.fingerprint}/model/model-{place}.txt" for place in (0, 1)]
    # It learnt: predictions of the posts that it was trained on follow their labels.
    assert np.corrcoef(boosters[0].predict(matrix.values), popularity)[0, 1] > 0.8


@pytest.mark.slow
def test_one_trial_at_a_time_is_repeatable_on_an_object_store_too(
    tuned: tuple[Config, Manifest], session: RaySession, bucket: str
) -> None:
    undisturbed, manifest = tuned
    config = config_of(bucket.format("run"))
    again = run_tune(config, session)
    workspace = Workspace.open(config.workspace)
    stored = pq.read_table(workspace.path(again.fragments[0].path), filesystem=workspace.filesystem).to_pandas()
    expected = trials_of(undisturbed).drop(columns=TIMES)
    pd.testing.assert_frame_equal(stored.drop(columns=TIMES), expected, check_exact=True)
    assert workspace.read(again.details["models"][0]) == (folder_of(undisturbed) / "model/model-0.txt").read_bytes()
    workspace.filesystem.delete_file(workspace.path("tune", again.fingerprint, "manifest.json"))
    last = run_tune(config, session)  # from the records in the store
    assert last.details["trials_resumed"] == SWEEP["trials"]
    assert last.details["best"] == manifest.details["best"]


def test_failed_trials_are_rows_and_few_points_are_tried_once(tmp_path: Path, session: RaySession) -> None:
    space = {
        "boosting": {"type": "choice", "values": ["gbdt", "dart"]},
        "num_leaves": {"type": "choice", "values": [1, 8]},  # LightGBM refuses 1
        "max_depth": {"type": "choice", "values": [3, "4"]},
    }
    config = config_of(tmp_path, max_concurrent=2, asha=None, objective="mape", space=space, max_rounds=20)
    run_tune(config, session)
    trials = trials_of(config)
    assert len(trials) == len(trials[["param_boosting", "param_num_leaves", "param_max_depth"]].drop_duplicates()) <= 8
    failed = trials["status"] == "failed"
    assert 0 < failed.sum() < len(trials)
    assert (trials["param_num_leaves"][failed] == 1).all()
    assert (trials["status"][~failed] == "completed").all()
    assert trials["error"][failed].str.contains("num_leaves").all()
    assert trials["objective"][failed].isna().all()
    assert set(trials["param_max_depth"]) <= {"3", '"4"'}


def test_all_trials_failed(tmp_path: Path, session: RaySession) -> None:
    space = {"learning_rate": {"type": "float", "low": 0.1, "high": 0.2}}
    config = config_of(tmp_path, trials=3, params={"num_leaves": 1}, space=space)
    with pytest.raises(SmpRayError, match=r"tune: all 3 trials failed, the first with: LightGBMError: .*num_leaves"):
        run_tune(config, session)
    assert not (folder_of(config) / "manifest.json").exists()
    assert not (folder_of(config) / "trials").exists()  # the next run tries them again


@pytest.mark.thorough
def test_the_time_budget_ends_the_sweep_with_a_model(tmp_path: Path, session: RaySession) -> None:
    config = config_of(
        tmp_path,
        **{**SLOW, "max_rounds": 100_000, "early_stopping_rounds": 100_000, "trials": 1000},
        time_budget_s=12.0,
    )
    manifest = run_tune(config, session)
    trials = trials_of(config)
    assert 1 <= len(trials) < 1000
    assert (trials["status"] == "stopped").any()
    assert (trials["rounds"] > 0).all()
    assert (trials["started_after_seconds"] + trials["seconds"]).max() < 60
    assert lgb.Booster(model_file=f"{config.workspace}/{manifest.details['models'][0]}").num_trees() > 0


def kill_workers(seen: set[int]) -> None:
    """Kill two actors of Tune's that are training, once each."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended by itself
            # What an actor does is its process's title.
            if "Trainable.train" in " ".join(process.cmdline()) and process.pid not in seen and len(seen) < 2:
                process.kill()
                seen.add(process.pid)


@pytest.mark.slow
def test_a_killed_worker_costs_a_retry(tmp_path: Path, session: RaySession) -> None:
    config = config_of(tmp_path, **{**SLOW, "trials": 4})
    killed: set[int] = set()
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            kill_workers(killed)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        run_tune(config, session)
    finally:
        over.set()
        killer.join()
    assert killed
    trials = trials_of(config)
    assert list(trials["trial"]) == list(range(4))
    assert (trials["status"] == "completed").all()


def start_driver(config: Config) -> subprocess.Popen[bytes]:
    """A process of its own that runs the sweep on a Ray of its own."""
    code = f"from tests.training.sweep.test_tune import *; main({config.workspace!r})"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


def main(workspace: str) -> None:
    """What `start_driver` runs."""
    config = config_of(workspace, **SLOW)
    with ray_session(config.ray) as session:
        run_tune(config, session)


@pytest.mark.thorough
def test_a_sweep_killed_three_times_ends_with_all_trials_and_none_twice(tmp_path: Path, session: RaySession) -> None:
    config, chance = config_of(tmp_path, **SLOW), random.Random(0)
    known: dict[Path, int] = {}
    for _ in range(3):
        process = start_driver(config)
        wanted, limit = len(known) + chance.randint(1, 10), time.monotonic() + 200
        while len(list(tmp_path.glob("tune/*/trials/*.json"))) < wanted:
            assert process.poll() is None, "the driver ended before it was killed"
            assert time.monotonic() < limit
            time.sleep(0.01)
        time.sleep(chance.random())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        now = {path: path.stat().st_mtime_ns for path in tmp_path.glob("tune/*/trials/*.json")}
        assert known.items() <= now.items()  # none of them was run again
        known = now
    manifest = run_tune(config, session)
    assert manifest.details["trials_resumed"] == len(known)
    trials = trials_of(config)
    assert list(trials["trial"]) == list(range(40))
    assert not trials[[f"param_{name}" for name in SPACE]].duplicated().any()
    assert (trials["status"] == "completed").all()
    assert lgb.Booster(model_file=f"{config.workspace}/{manifest.details['models'][0]}").num_trees() > 0


def test_what_does_not_fit_is_refused(tmp_path: Path, session: RaySession) -> None:
    session.start()
    with pytest.raises(
        SmpRayError, match=r"a task takes 512 CPUs, but the largest node has \d+; lower training\.tune\.cpus_per_trial"
    ):
        run_tune(config_of(tmp_path, cpus_per_trial=512), session)
    assert trials_at_once(TuneConfig(), session.nodes()) == session.nodes()[0].cores  # not Ray's logical CPUs
    assert trials_at_once(TuneConfig(max_concurrent=1), session.nodes()) == 1
    with pytest.raises(ConfigError, match="max_bin"):
        run_tune(config_of(tmp_path, params={}, space={"max_bin": {"type": "int", "low": 15, "high": 255}}), session)
