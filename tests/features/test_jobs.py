"""`ray job submit`: the same export as the local run, and a missing config fails with one clear line."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest

from smp_ray.config import load_config
from smp_ray.ray_session import RaySession
from tests.features.conftest import exported, run_features

ROOT = Path(__file__).resolve().parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head node on loopback; yields the environment in which `ray job submit` reaches it."""
    # A Ray that other tests of this process have running must not be joined, nor stopped: no `ray stop` here.
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    env |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env |= {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8299"}
    start = [*RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--port=6399"]
    start += ["--dashboard-host=127.0.0.1", "--dashboard-port=8299"]
    # Not the default port, on which the agent of another local Ray may listen.
    start += ["--dashboard-agent-listen-port=52399", "--num-cpus=4"]
    start += ["--object-store-memory=500000000", "--disable-usage-stats"]
    log = tmp_path_factory.mktemp("cluster") / "head.log"
    with log.open("wb") as file:
        head = subprocess.Popen(start, env=env, stdout=file, stderr=file, start_new_session=True)
    for _ in range(120):
        listed = subprocess.run([*RAY, "job", "list"], env=env, capture_output=True, check=False)
        if listed.returncode == 0:
            break
        assert head.poll() is None, log.read_text()
        time.sleep(0.5)
    yield env
    # Asked to end by itself, it takes half a minute.
    for process in [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait(timeout=60)


def submit(env: dict[str, str], *entrypoint: str) -> tuple[str, str, str]:
    """Submit a job and wait: its status, its log and what the command printed."""
    name = f"test-{time.monotonic_ns()}"
    call = [*RAY, "job", "submit", "--submission-id", name, "--working-dir", ".", "--", *entrypoint]
    done = subprocess.run(call, env=env, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    status, log = (
        subprocess.run([*RAY, "job", what, name], env=env, capture_output=True, text=True, check=False).stdout
        for what in ("status", "logs")
    )
    found = [word for word in ("SUCCEEDED", "FAILED") if word in status.upper()]
    return found[0] if found else status, log, done.stdout + done.stderr


@pytest.mark.slow
def test_features_as_a_job(cluster: dict[str, str], session: RaySession, tmp_path: Path) -> None:
    settings = ["--set", "source.posts=120"]
    entrypoint = [
        "python",
        "jobs/run.py",
        "features",
        "--config",
        "configs/demo.yaml",
        "--workspace",
        str(tmp_path / "job"),
    ]
    status, log, printed = submit(cluster, *entrypoint, *settings)
    assert status == "SUCCEEDED", log + printed
    frames = []
    for name in ("job", "local"):
        config = load_config(ROOT / "configs" / "demo.yaml", ["source.posts=120"], str(tmp_path / name))
        (tmp_path / name).mkdir(exist_ok=True)
        run = run_features(config, session)  # up to date where the job made it
        assert bool(run.computed) == (name == "local")
        # The pictures lie in each run's own workspace; all else must agree.
        frames.append(exported(run, tmp_path / name).drop(columns="image_uri"))
    pd.testing.assert_frame_equal(*frames, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_a_missing_config_fails_with_one_line(cluster: dict[str, str]) -> None:
    status, log, printed = submit(cluster, "python", "jobs/run.py", "features", "--config", "configs/nowhere.yaml")
    assert status == "FAILED", printed
    assert "Error: configs/nowhere.yaml: no such file" in log
    assert "Traceback" not in log
