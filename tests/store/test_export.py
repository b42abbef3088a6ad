"""An export to an object store: whole under its name, or not there at all."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from smp_ray.config import build_config
from smp_ray.errors import WorkspaceError
from smp_ray.pipeline import export, open_run
from smp_ray.ray_session import RaySession
from smp_ray.store.export import export as write_export
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.workspace import Place, Workspace

SLOW = """
import sys, time
from smp_ray.store import export
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.workspace import Workspace
pieces = export.iter_posts
def slowly(*arguments):
    for piece in pieces(*arguments):
        yield piece
        print("a piece", flush=True)
        time.sleep(600)
export.iter_posts = slowly
name, rows, out = sys.argv[2:]
posts = Manifest("ingest", "x", {}, fragments=[Fragment(name, int(rows), 1)] * 2)
export.export(Workspace.open(sys.argv[1]), posts, [], out)
"""


def posts_of(sample: Path) -> tuple[Workspace, str, int]:
    path = next((sample / "run" / "ingest").glob("*/posts/*.parquet"))
    return Workspace.open(str(sample / "run")), str(path.relative_to(sample / "run")), pq.read_metadata(path).num_rows


def test_a_whole_export_to_s3_is_the_local_one(sample: Path, session: RaySession, bucket: str) -> None:
    raw = {"workspace": str(sample / "run"), "source": {"kind": "demo", "posts": 500, "seed": 7}}
    out = bucket.format("out/features.parquet")
    assert export(open_run(build_config(raw), session), out) == 500
    place = Place.open(out)
    found = pq.read_table(place.root, filesystem=place.filesystem).to_pandas()
    pd.testing.assert_frame_equal(found, pd.read_parquet(sample / "features.parquet"))
    assert not list(Path(tempfile.gettempdir()).glob("features.parquet.*.tmp"))


def test_an_export_that_fails_leaves_nothing(sample: Path, bucket: str) -> None:
    workspace, name, rows = posts_of(sample)
    posts = Manifest("ingest", "x", {}, fragments=[Fragment(name, rows, 1), Fragment("gone.parquet", 1, 1)])
    out = bucket.format("failed.parquet")
    with pytest.raises(WorkspaceError, match=r"gone\.parquet"):
        write_export(workspace, posts, [], out)
    assert not Place.open(out).exists()
    assert not list(Path(tempfile.gettempdir()).glob("failed.parquet.*.tmp"))


@pytest.mark.slow
def test_an_export_killed_midway_leaves_nothing_under_its_name(
    sample: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    workspace, name, rows = posts_of(sample)
    out = bucket.format("killed.parquet")
    command = [sys.executable, "-c", SLOW, workspace.uri, name, str(rows), out]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "a piece\n"
    assert list(tmp_path.glob("killed.parquet.*.tmp"))
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Place.open(out).exists()
