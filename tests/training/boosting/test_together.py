"""Several processes train one model, each on its part of the posts; it also tests `training/ray_train.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from smp_ray.config import Config, build_config
from smp_ray.errors import ConfigError
from smp_ray.ray_session import RaySession
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import read_rows, write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.lightgbm import LightGBM
from smp_ray.training.matrix.matrix import load_final
from smp_ray.training.ray_train import RUNS
from tests.training.fold_data import commit_small, small_matrix
from tests.training.runs import brought, run_with

TUNE = {"trials": 1, "max_rounds": 60, "early_stopping_rounds": 60, "models": 1, "asha": None}


def config_of(folder: Path, workers: int, **settings: object) -> Config:
    training = {"tune": {**TUNE, **settings}, "boosting": {"workers": workers}}
    return build_config({"workspace": str(folder), "source": {"kind": "demo"}, "training": training})


def predicted(folder: Path, workers: int, session: RaySession) -> tuple[np.ndarray, Manifest]:
    """What the final model says of the posts that it learned from."""
    workspace = Workspace.open(str(folder))
    stored = commit_small(workspace)
    tuned = brought(run_with(config_of(folder, workers), session, **stored), "tune")
    assert not workspace.exists(f"tune/{tuned.fingerprint}/{RUNS}")
    model = LightGBM().load(workspace.read(tuned.details["models"][0]).decode())
    return model.predict(load_final(workspace, stored["matrix"])[0]), tuned


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path, session: RaySession) -> None:
    (one, alone), (two, shared) = (predicted(tmp_path / str(count), count, session) for count in (1, 2))
    assert alone.details["best"] == shared.details["best"]
    assert not np.array_equal(one, two)  # other bins, and medians of leaves that are means of two medians
    errors = np.abs(np.stack([one, two]) - small_matrix()[1])
    for half in np.array_split(errors, 2, axis=1):  # either process's own posts
        by_one, by_two = half.mean(axis=1)
        assert by_two == pytest.approx(by_one, rel=0.2)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_of_a_table_are_the_table(tmp_path: Path, parts: int) -> None:
    workspace, table = Workspace.open(str(tmp_path)), pa.table({"row_id": np.arange(100_001)})
    write_table(workspace, "all.parquet", table)
    found = [read_rows(workspace, "all.parquet", part, parts) for part in range(parts)]
    assert pa.concat_tables(found).equals(table)
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_what_cannot_be_is_refused(tmp_path: Path, session: RaySession) -> None:
    stored = commit_small(Workspace.open(str(tmp_path)))
    with pytest.raises(ConfigError, match=r"training.boosting.workers is 99 with \S+ CPUs each, but \d+ fit"):
        brought(run_with(config_of(tmp_path, 99), session, **stored), "tune")
