"""The workspace on an object store: moto's S3 server on loopback gives the same export, and a killed run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from smp_ray.config import load_config
from smp_ray.pipeline import export, open_run
from smp_ray.ray_session import RaySession
from smp_ray.store.reader import PASSES
from smp_ray.store.workspace import Workspace
from tests.features.conftest import command, run_features, write_table

POSTS = 160


def write_config(folder: Path, workspace: str) -> Path:
    rows = [{"id": f"p{i}", "title": f"a red boat on the lake at night {i} " * 8, "image": ""} for i in range(POSTS)]
    table = write_table(folder / "posts.csv", rows)
    path = folder / "config.yaml"
    path.write_text(
        f"workspace: {workspace}\n"
        f"source: {{kind: table, path: {table}, columns: {{post_id: id, title: title, image: image}}}}\n"
        "features: {rows_per_block: 20, workers: 1}\n"
    )
    return path


def frame(config: Path, name: str) -> pd.DataFrame:
    loaded = load_config(config)
    out = config.parent / name
    export(open_run(loaded, RaySession(loaded.ray)), str(out))
    return pd.read_parquet(out)


def recorded(workspace: Workspace) -> int:
    """Files with posts that are finished: an object appears when it is whole."""
    files = [info.path for info in workspace.files(PASSES) if info.path.endswith(".parquet")]
    return sum(pq.read_metadata(path, filesystem=workspace.filesystem).num_rows > 0 for path in files)


@pytest.mark.thorough  # the rehearsed job is killed on S3, too
def test_the_same_export_from_s3_after_a_kill(bucket: str, session: RaySession, tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    (tmp_path / "local").mkdir()
    remote = write_config(tmp_path / "remote", bucket.format("run"))
    workspace = Workspace.open(bucket.format("run"))
    running = subprocess.Popen(command("features", str(remote)), env={**os.environ})
    began = time.monotonic()
    while recorded(workspace) < 2:
        assert running.poll() is None, "ended before the kill"
        assert time.monotonic() - began < 240
        time.sleep(0.1)
    running.send_signal(signal.SIGKILL)
    running.wait()
    again = subprocess.run(command("features", str(remote)), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "posts kept from before" in again.stderr
    local = write_config(tmp_path / "local", str(tmp_path / "local" / "run"))
    run_features(load_config(local), session)
    pd.testing.assert_frame_equal(frame(remote, "remote.parquet"), frame(local, "local.parquet"), rtol=1e-4, atol=1e-3)
