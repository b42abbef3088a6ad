"""The workspace on an object store: moto's S3 server on loopback gives the same export, and a killed run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from smp_ray.config import load_config
from smp_ray.features.feature_pass import CHECKPOINT, mend
from smp_ray.pipeline import export, open_run
from smp_ray.ray_session import RaySession
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
    """Blocks that Ray has recorded as finished."""
    paths = [info.path for info in workspace.files("features/passes")]
    return sum("/checkpoint/" in path and ".pending." not in path for path in paths)


@pytest.mark.slow
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
    assert "posts kept, not computed again" in again.stderr
    local = write_config(tmp_path / "local", str(tmp_path / "local" / "run"))
    run_features(load_config(local), session)
    pd.testing.assert_frame_equal(frame(remote, "remote.parquet"), frame(local, "local.parquet"), rtol=1e-4, atol=1e-3)


def test_mending_a_commit_that_was_killed_between_copy_and_delete(bucket: str) -> None:
    """The pending twin of a committed checkpoint goes, so that Ray does not delete the data of both."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    workspace = Workspace.open(bucket.format("mend"))
    folder = "features/passes/x"
    ids = pa.table({"row_id": pa.array([1, 2, 3], pa.int64())})
    for name in ("a.parquet", "a.pending.parquet", "b.pending.parquet"):
        pq.write_table(ids, workspace.path(folder, CHECKPOINT, name), filesystem=workspace.filesystem)
    assert mend(workspace, folder) == 3
    names = [info.base_name for info in workspace.files(folder, CHECKPOINT)]
    assert names == ["a.parquet", "b.pending.parquet"]
