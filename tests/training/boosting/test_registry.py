"""A predictor from an installed package: swept, fitted, stored and read by name alone (`base` is all that it knows)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from jobs.bench.packages import install
from smp_ray.config import PREDICTORS, build_config
from smp_ray.errors import ConfigError
from smp_ray.training.boosting.registry import find

PACKAGE = """
import json
import os

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from smp_ray.training.boosting.base import Growing, Model, Predictor


class Growth(Growing):
    def __init__(self, data, params):
        self.training, self.labels, self.validation = data
        self.params, self.rounds = params, 0
        self.regressor = HistGradientBoostingRegressor(warm_start=True, early_stopping=False, **params)

    def grow(self):
        self.rounds += 1
        self.regressor.set_params(max_iter=self.rounds).fit(self.training, self.labels)
        return np.zeros(0) if self.validation is None else self.regressor.predict(self.validation)

    def text(self):
        rows = {"rows": self.training.tolist(), "labels": self.labels.tolist()}
        return json.dumps({"params": self.params, "rounds": self.rounds, "process": os.getpid(), **rows})


class Fitted(Model):
    def __init__(self, said):
        self.columns = len(said["rows"][0])
        self.growth = Growth((np.array(said["rows"], np.float32), np.array(said["labels"]), None), said["params"])
        for _ in range(said["rounds"]):
            self.growth.grow()

    def predict(self, matrix):
        return self.growth.regressor.predict(matrix.values)


class Histograms(Predictor):
    name = "histograms"
    defaults = {"learning_rate": 0.1, "max_leaf_nodes": 31}

    def complete(self, params, objective, seed, threads):
        return {"loss": "absolute_error", "random_state": seed, **params}

    def prepare(self, training, popularity, validation, params):
        return training.values, popularity, None if validation is None else validation.values

    def begin(self, data, params):
        return Growth(data, params)

    def load(self, text):
        return Fitted(json.loads(text))
"""
SPACE = {
    "learning_rate": {"type": "float", "low": 0.05, "high": 0.3, "log": True},
    "max_leaf_nodes": {"type": "int", "low": 4, "high": 31, "log": True},
}
DRIVER = f"""
import sys
import pytest
from smp_ray.config import PREDICTORS, build_config
from smp_ray.errors import ConfigError
from smp_ray.ray_session import ray_session
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.registry import find
from tests.training.fold_data import commit_small, small_matrix
from tests.training.runs import brought, run_with
import numpy as np

tune = {{"trials": 4, "max_rounds": 12, "models": 1, "space": {SPACE!r}}}
training = {{"predictor": "histograms", "tune": tune}}
several = training | {{"boosting": {{"workers": 2}}}}
config, refused = (
    build_config({{"workspace": sys.argv[1], "source": {{"kind": "demo"}}, "training": one}})
    for one in (training, several)
)
with ray_session(config.ray) as session:
    stored = commit_small(workspace := Workspace.open(config.workspace))
    with pytest.raises(ConfigError, match="boosting.workers is 2, but the predictor histograms trains in one process"):
        brought(run_with(refused, session, **stored), "tune")
    tuned = brought(run_with(config, session, **stored), "tune")
matrix, popularity = small_matrix()
(path,) = tuned.details["models"]
model = find("histograms").load(workspace.read(path).decode())
assert np.corrcoef(model.predict(matrix), popularity)[0, 1] > 0.7
"""


def install_histograms(folder: Path, package: str = PACKAGE) -> Path:
    return install(folder, package, PREDICTORS, "histograms", "histograms:Histograms")


@pytest.mark.slow
def test_scikit_learns_boosting_is_swept_and_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{install_histograms(tmp_path)}:{Path(__file__).parents[3]}")
    run = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", DRIVER, str(run)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (trials,) = run.glob("tune/*/trials.parquet")
    found = pd.read_parquet(trials)
    assert found["error"].isna().all()
    assert (found["param_learning_rate"][0], found["param_max_leaf_nodes"][0]) == (0.1, 31)
    assert found["objective"].nunique() == 4


def test_what_cannot_be_found_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = {"workspace": "runs", "source": {"kind": "demo"}, "training": {"predictor": "crystal"}}
    with pytest.raises(ConfigError, match=r"training\.predictor: found 'crystal', allowed: lightgbm$"):
        build_config(raw)
    monkeypatch.syspath_prepend(str(install_histograms(tmp_path, "Histograms = 3")))
    with pytest.raises(ConfigError, match=r"'histograms' .* is no subclass of smp_ray\.training\.boosting\.base\.Pred"):
        find("histograms")
    (tmp_path / "histograms.py").unlink()
    monkeypatch.delitem(sys.modules, "histograms")
    with pytest.raises(ConfigError, match=r"'histograms' .* cannot be imported: No module named 'histograms'"):
        find("histograms")
    with pytest.raises(ConfigError, match="'crystal' is not installed here"):
        find("crystal")
