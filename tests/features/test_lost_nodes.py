"""SIGKILL at a random moment: of the driver, of a worker, of the ledger, of one of two nodes. Every post exactly once.

`SMP_RAY_KILLS` is how many passes are killed, one of each kind by default.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from cluster.rehearse import Node, Rehearsal
from smp_ray.config import load_config
from smp_ray.pipeline import export, open_run
from smp_ray.ray_session import RaySession
from tests.features.conftest import command
from tests.features.test_faults import LIMIT, assert_every_post_once, wait_for, write_config, written

KINDS = ("driver", "worker", "ledger", "raylet")
KILLS = int(os.environ.get("SMP_RAY_KILLS", len(KINDS)))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    config = write_config(tmp_path_factory.mktemp("unbroken"), 640)
    assert subprocess.run(command("features", str(config)), capture_output=True, check=False).returncode == 0
    return frame(config)


def frame(config: Path) -> pd.DataFrame:
    loaded = load_config(config)
    out = config.parent / "compared.parquet"
    export(open_run(loaded, RaySession(loaded.ray)), str(out))
    return pd.read_parquet(out).sort_values("post_id", ignore_index=True)


def processes(root: int, name: str) -> list[psutil.Process]:
    found = psutil.Process(root).children(recursive=True)
    running = [child for child in found if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in running if any(name in part for part in child.cmdline())]


@pytest.fixture
def cluster() -> Iterator[Rehearsal]:
    """A head without work and two nodes."""
    with Rehearsal([Node(4), Node(4)]) as rehearsal:
        yield rehearsal


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(KILLS))
def test_killed_at_random(number: int, tmp_path: Path, unbroken: pd.DataFrame, request: pytest.FixtureRequest) -> None:
    kind = KINDS[number % len(KINDS)]
    cluster = request.getfixturevalue("cluster") if kind == "raylet" else None
    env = cluster.env if cluster else dict(os.environ)
    config, log = write_config(tmp_path, 640), tmp_path / "run.log"
    with log.open("wb") as file:
        running = subprocess.Popen(command("features", str(config)), stdout=file, stderr=file, env=env)
    files = random.randint(0, 10)
    wait_for(lambda: (config.parent / "run/features/passes").exists() and written(config) >= files, running, log)
    time.sleep(random.uniform(0, 3))
    if kind == "driver":
        running.kill()
        running.wait()
        with log.open("ab") as file:
            running = subprocess.Popen(command("features", str(config)), stdout=file, stderr=file, env=env)
    elif cluster:
        cluster.kill(2)
    else:
        found = processes(running.pid, "ray::MapWorker" if kind == "worker" else "ray::Ledger")
        if found:  # while Ray starts there is none
            found[0].kill()
    assert running.wait(timeout=LIMIT) == 0, log.read_text()
    assert_every_post_once(config)
    mended = frame(config)
    assert mended["post_id"].tolist() == unbroken["post_id"].tolist()
    for column in ("title_perplexity", "similarity_image_title"):
        np.testing.assert_allclose(mended[column], unbroken[column], rtol=1e-4)
    for one, other in zip(mended["clip_title"], unbroken["clip_title"], strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), atol=2e-3)
