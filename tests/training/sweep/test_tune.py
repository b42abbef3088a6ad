"""The tune stage on a real Ray: what it stores, that it repeats, survives kills, and names what went wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest

from smp_ray.config import AshaConfig, Config, TuneConfig, build_config
from smp_ray.errors import ConfigError, SmpRayError
from smp_ray.evaluation.metrics import score
from smp_ray.ray_session import RaySession
from smp_ray.store.manifest import Manifest
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.booster import out_of_fold
from smp_ray.training.sweep.search import InOrder
from smp_ray.training.sweep.sweep import trials_at_once
from smp_ray.training.sweep.trial import rung_rounds
from smp_ray.training.sweep.trial_files import TrialFiles
from tests.training.fold_data import POSTS, SPACE, commit_small, small_folds, small_matrix, small_splits
from tests.training.runs import brought, run_with

#: What of a trials table must not depend on timing.
TIMES = ["seconds", "started_after_seconds"]
SWEEP: dict[str, Any] = {
    "trials": 14, "max_rounds": 150, "early_stopping_rounds": 15, "seed": 1, "max_concurrent": 2, "models": 1,
    "asha": {"grace_rounds": 5, "reduction_factor": 3}, "space": SPACE,
}  # fmt: skip


def config_of(folder: Path, **changes: Any) -> Config:
    training = {"tune": {**SWEEP, **changes}, "matrix": {"max_bin": 63}}
    return build_config({"workspace": str(folder), "source": {"kind": "demo"}, "training": training})


def run_tune(config: Config, session: RaySession) -> Manifest:
    return brought(run_with(config, session, **commit_small(Workspace.open(config.workspace))), "tune")


def folder_of(config: Config) -> Path:
    """The one artefact of the sweep."""
    (found,) = Path(config.workspace, "tune").iterdir()
    return found


def files_of(config: Config) -> TrialFiles:
    return TrialFiles(Workspace.open(config.workspace), f"tune/{folder_of(config).name}/trials")


def trials_of(config: Config) -> pd.DataFrame:
    return pq.read_table(folder_of(config) / "trials.parquet").to_pandas()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, session: RaySession) -> tuple[Config, Manifest]:
    """An undisturbed sweep, two trials at a time."""
    config = config_of(tmp_path_factory.mktemp("tuned"))
    return config, run_tune(config, session)


def test_every_trial_has_its_row(tuned: tuple[Config, Manifest]) -> None:
    config, manifest = tuned
    trials = trials_of(config)
    assert list(trials["trial"]) == list(range(SWEEP["trials"]))
    assert set(trials["status"]) == {"completed", "stopped"}
    assert manifest.rows == SWEEP["trials"]
    assert manifest.counts == trials["status"].value_counts().to_dict()
    for name in SPACE:
        assert trials[f"param_{name}"].nunique() > (1 if name == "extra_trees" else 5)
    assert trials["error"].isna().all()
    assert (trials["seconds"] > 0).all()
    means = trials[[f"mae_fold_{fold}" for fold in range(3)]].mean(axis=1)
    np.testing.assert_allclose(trials["objective"], means, atol=1e-12)
    files = files_of(config)
    judged = small_splits().judged
    for row in trials.to_dict("records"):
        prediction = files.predictions(row["trial"])
        assert np.isnan(prediction[~judged]).all()
        found = score(small_splits().popularity[judged], prediction[judged])
        assert {name: row[name] for name in found} == pytest.approx(found, abs=1e-12)


def test_the_best_trial_is_what_is_published(tuned: tuple[Config, Manifest]) -> None:
    config, manifest = tuned
    trials = trials_of(config)
    best = manifest.details["best"]
    assert best["trial"] == trials["objective"].idxmin()
    assert best["value"] == trials["objective"].min()
    assert best["value"] <= trials["objective"][0]
    stored = pq.read_table(folder_of(config) / "out_of_fold.parquet").to_pandas()
    splits = small_splits()
    np.testing.assert_array_equal(stored["row_id"], splits.row_ids)
    params = {name: trials[f"param_{name}"][best["trial"]] for name in SPACE}
    assert params == best["params"]
    expected = out_of_fold(
        small_folds(), params, objective="mae", max_rounds=150, early_stopping_rounds=15, posts=POSTS, max_bin=63,
        seed=1 + best["trial"],
    )  # fmt: skip
    np.testing.assert_array_equal(stored["prediction"], expected.prediction)
    assert expected.rounds == best["rounds"]


def test_trial_0_is_lightgbm_with_its_own_settings(tuned: tuple[Config, Manifest]) -> None:
    first = trials_of(tuned[0]).iloc[0]
    assert first["status"] == "completed"
    assert (first["param_learning_rate"], first["param_num_leaves"], first["param_bagging_fraction"]) == (0.1, 31, 1.0)


def test_a_finished_sweep_is_not_computed_again(tuned: tuple[Config, Manifest]) -> None:
    config, manifest = tuned
    another = RaySession(config.ray)
    assert run_tune(config, another) == manifest
    assert not another.started


def test_the_model_needs_lightgbm_alone(tuned: tuple[Config, Manifest], tmp_path: Path) -> None:
    config, manifest = tuned
    matrix, _ = small_matrix()
    np.save(tmp_path / "values.npy", matrix.values)
    script = """
import sys
import threading
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("smp_ray", "ray", "torch"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import json, lightgbm, numpy
folder, data = sys.argv[1:]
described = json.load(open(f"{folder}/columns.json"))
values = numpy.load(f"{data}/values.npy")
assert len(described["columns"]) == values.shape[1]
models = [lightgbm.Booster(model_file=f"{folder}/{name}") for name in described["models"]]
numpy.save(f"{data}/prediction.npy", numpy.mean([model.predict(values) for model in models], axis=0))
"""
    folder = str(folder_of(config) / "model")
    done = subprocess.run(
        [sys.executable, "-c", script, folder, str(tmp_path)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    described = json.loads(Path(folder, "columns.json").read_text())
    assert [column["name"] for column in described["columns"]] == list(matrix.names)
    assert described["columns"][-1] == {
        "name": "category", "family": "metadata", "levels": ["dog", "cat", "sea", "food"],
    }  # fmt: skip
    assert described["columns"][0]["levels"] is None
    assert described["objective"] == "mae"
    best = manifest.details["best"]
    assert [(one["trial"], one["rounds"]) for one in described["trials"]] == [(best["trial"], best["rounds"])]
    assert manifest.details["models"] == [f"tune/{manifest.fingerprint}/model/model-0.txt"]
    booster = lgb.Booster(model_file=f"{folder}/model-0.txt")
    assert booster.num_trees() == best["rounds"]
    np.testing.assert_array_equal(np.load(tmp_path / "prediction.npy"), booster.predict(matrix.values))
    # It learnt: predictions of the posts that it was trained on follow their labels.
    assert np.corrcoef(np.load(tmp_path / "prediction.npy"), small_matrix()[1])[0, 1] > 0.8


def test_one_trial_at_a_time_without_halving(tmp_path: Path, session: RaySession) -> None:
    space = {
        "boosting": {"type": "choice", "values": ["gbdt", "dart"]},
        "num_leaves": {"type": "choice", "values": [1, 8]},  # LightGBM refuses 1
        "max_depth": {"type": "choice", "values": [3, "4"]},
    }
    config = config_of(
        tmp_path, trials=9, max_concurrent=1, asha=None, objective="mape", models=2, space=space, max_rounds=20
    )
    manifest = run_tune(config, session)
    trials = trials_of(config)
    failed = trials["status"] == "failed"
    assert 0 < failed.sum() < len(trials)
    assert (trials["param_num_leaves"][failed] == 1).all()
    assert (trials["status"][~failed] == "completed").all()
    assert trials["error"][failed].str.contains("num_leaves").all()
    assert trials["objective"][failed].isna().all()
    assert set(trials["param_max_depth"]) <= {"3", '"4"'}
    best = trials.sort_values(["objective", "trial"])["trial"][:2].tolist()
    assert manifest.details["trials_used"] == best
    assert len(manifest.details["models"]) == 2
    files = files_of(config)
    stored = pq.read_table(folder_of(config) / "out_of_fold.parquet")["prediction"].to_numpy()
    np.testing.assert_array_equal(stored, np.mean([files.predictions(number) for number in best], axis=0))


def test_all_trials_failed(tmp_path: Path, session: RaySession) -> None:
    space = {"learning_rate": {"type": "float", "low": 0.1, "high": 0.2}}
    config = config_of(tmp_path, trials=3, params={"num_leaves": 1}, space=space)
    with pytest.raises(SmpRayError, match=r"tune: all 3 trials failed, the first with: LightGBMError: .*num_leaves"):
        run_tune(config, session)
    assert not (folder_of(config) / "manifest.json").exists()
    assert not (folder_of(config) / "trials").exists()  # the next run tries them again


def test_the_time_budget_ends_the_sweep_with_a_model(tmp_path: Path, session: RaySession) -> None:
    config = config_of(
        tmp_path, trials=1000, time_budget_s=6.0, asha=None, max_rounds=100_000, early_stopping_rounds=100_000
    )
    manifest = run_tune(config, session)
    trials = trials_of(config)
    assert 1 <= len(trials) < 1000
    assert (trials["status"] == "stopped").all()
    assert (trials["rounds"] > 0).all()
    ends = trials["started_after_seconds"] + trials["seconds"]
    assert (ends > 5.9).all()
    assert (ends < np.maximum(6, trials["started_after_seconds"]) + 3).all()  # on a slow machine they may begin late
    assert lgb.Booster(model_file=f"{config.workspace}/{manifest.details['models'][0]}").num_trees() > 0


def test_a_killed_sweep_goes_on_to_the_same_end(
    tuned: tuple[Config, Manifest], tmp_path: Path, session: RaySession
) -> None:
    undisturbed, _ = tuned
    config = config_of(tmp_path)
    with driver(config) as process:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("tune/*/trials/*.json"))) < 3:
            assert process.poll() is None, "the driver ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("tune/*/trials/*.json")}
    assert 3 <= len(kept) < SWEEP["trials"]
    manifest = run_tune(config, session)
    assert manifest.details["trials_resumed"] == len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # none of them was run again
    pd.testing.assert_frame_equal(
        trials_of(config).drop(columns=TIMES), trials_of(undisturbed).drop(columns=TIMES), check_exact=True
    )
    for name in ("out_of_fold.parquet", "model/model-0.txt", "model/columns.json"):
        ours, theirs = ((folder_of(one) / name).read_bytes() for one in (config, undisturbed))
        assert ours == theirs, name


class driver:  # noqa: N801
    """A process of its own that runs the sweep on a Ray of its own."""

    def __init__(self, config: Config) -> None:
        code = "from tests.training.sweep.test_tune import *; main()"
        environment = {**os.environ, "SMP_RAY_TEST_WORKSPACE": config.workspace}
        self.process = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def main() -> None:
    """What `driver` runs."""
    from smp_ray.ray_session import ray_session

    config = config_of(Path(os.environ["SMP_RAY_TEST_WORKSPACE"]))
    with ray_session(config.ray) as session:
        run_tune(config, session)


def test_what_does_not_fit_is_refused(tmp_path: Path, session: RaySession) -> None:
    session.start()
    with pytest.raises(SmpRayError, match=r"cpus_per_trial is 512, but the largest node has \d+ CPUs"):
        run_tune(config_of(tmp_path, cpus_per_trial=512), session)
    assert session.cores
    assert trials_at_once(TuneConfig(), session.cores) == session.cores  # not Ray's logical CPUs
    assert trials_at_once(TuneConfig(max_concurrent=1), session.cores) == 1
    assert trials_at_once(TuneConfig(trials=1), session.cores) == 1
    space = {"max_bin": {"type": "int", "low": 15, "high": 255}}
    with pytest.raises(ConfigError, match="max_bin"):
        run_tune(config_of(tmp_path, space=space), session)


def test_rungs_are_farther_for_slow_learners() -> None:
    settings = TuneConfig(max_rounds=2000, asha=AshaConfig(grace_rounds=100, reduction_factor=3))
    assert rung_rounds(settings, {"learning_rate": 0.1}) == [100, 300, 900]
    assert rung_rounds(settings, {"learning_rate": 0.2}) == [100, 300, 900]
    assert rung_rounds(settings, {"learning_rate": 0.05}) == [200, 600, 1800]
    assert rung_rounds(settings, {}) == [100, 300, 900]
    assert rung_rounds(settings.model_copy(update={"asha": None}), {}) == []


@pytest.mark.slow
def test_the_same_sweep_on_an_object_store(tuned: tuple[Config, Manifest], session: RaySession, bucket: str) -> None:
    local, _ = tuned
    config = local.model_copy(update={"workspace": bucket.format("run")})
    manifest = run_tune(config, session)  # Tune hands the credentials on to its actors
    workspace = Workspace.open(config.workspace)
    stored = pq.read_table(workspace.path(manifest.fragments[0].path), filesystem=workspace.filesystem).to_pandas()
    pd.testing.assert_frame_equal(stored.drop(columns=TIMES), trials_of(local).drop(columns=TIMES), check_exact=True)
    assert workspace.manifest("tune", manifest.fingerprint) == manifest
    workspace.filesystem.delete_file(workspace.path("tune", manifest.fingerprint, "manifest.json"))
    again = run_tune(config, session)  # from the records in the store
    assert again.details["trials_resumed"] == SWEEP["trials"]
    assert again.details["best"] == manifest.details["best"]


@pytest.mark.slow
def test_trials_whose_process_dies_are_run_again(
    tuned: tuple[Config, Manifest], tmp_path: Path, session: RaySession, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, _ = tuned
    killed: list[int] = []
    kill_after = [4, 9]

    class Killing(InOrder):
        """Kills all actors when some trials have ended: one between two trials, the other, if started, within one."""

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            super().on_trial_complete(trial_id, result, error)
            if kill_after and len(self.ended) >= kill_after[0]:
                kill_after.pop(0)
                for process in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.Error):  # it has just ended by itself
                        if "ImplicitFunc" in " ".join(process.cmdline()):  # Tune's name for actors
                            process.kill()
                            killed.append(process.pid)

    monkeypatch.setattr("smp_ray.training.sweep.sweep.InOrder", Killing)
    config = config_of(tmp_path)
    run_tune(config, session)
    assert len(killed) >= 2
    expected = trials_of(undisturbed).drop(columns=TIMES)
    pd.testing.assert_frame_equal(trials_of(config).drop(columns=TIMES), expected, check_exact=True)
