"""An export to an object store: whole under its name, or not there at all; and one into a folder, whole by its mark."""

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
from smp_ray.errors import ConfigError, WorkspaceError
from smp_ray.pipeline import export, open_run, run_stages
from smp_ray.progress import Reporter
from smp_ray.ray_session import RaySession
from smp_ray.sources import piece
from smp_ray.store import parquet
from smp_ray.store.export import SUCCESS, export_folder
from smp_ray.store.export import export as write_export
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.workspace import Place, Workspace

SLOW = """
import sys, time
from smp_ray.store import export, wide
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.workspace import Workspace
pieces = wide.iter_posts
def slowly(*arguments):
    for piece in pieces(*arguments):
        yield piece
        print("a piece", flush=True)
        time.sleep(600)
wide.iter_posts = slowly
name, rows, out = sys.argv[2:]
posts = Manifest("ingest", "x", {}, fragments=[Fragment(name, int(rows), 1)] * 2)
export.export(Workspace.open(sys.argv[1]), posts, [], out)
"""


def posts_of(sample: Path) -> tuple[Workspace, str, int]:
    path = next((sample / "run" / "ingest").glob("files/*/posts/*.parquet"))
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


@pytest.mark.slow
def test_a_folder_holds_what_one_file_holds(
    session: RaySession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "FILE_ROWS", 20)  # posts in several files
    monkeypatch.setattr(piece, "_BATCH_ROWS", 20)
    features = {"families": ["perplexity"], "rows_per_block": 16, "workers": 1}
    raw = {"workspace": str(tmp_path / "run"), "source": {"kind": "demo", "posts": 60}, "features": features}
    run = open_run(build_config(raw), session)
    run_stages(run, ["features"])
    posts = run.artefact("ingest")
    assert isinstance(posts, Manifest)
    assert len(posts.fragments) == 3
    assert export(run, str(tmp_path / "one.parquet")) == 60
    out = tmp_path / "parts"
    assert export(run, f"{out}/") == 60
    assert sorted(path.name for path in out.iterdir()) == [SUCCESS, *(f"part-0000{n}.parquet" for n in range(3))]
    one, parts = pd.read_parquet(tmp_path / "one.parquet"), pd.read_parquet(out)
    assert one["title_perplexity"].notna().any()
    pd.testing.assert_frame_equal(
        parts.sort_values("row_id", ignore_index=True), one.sort_values("row_id", ignore_index=True)
    )
    (out / SUCCESS).unlink()
    with pytest.raises(ConfigError, match=r"found part-00000\.parquet in .*allowed: a folder that is empty"):
        export(run, f"{out}/")


def test_a_folder_that_fails_is_not_marked_as_whole(sample: Path, session: RaySession, tmp_path: Path) -> None:
    session.start()
    workspace, name, rows = posts_of(sample)
    posts = Manifest("ingest", "x", {}, fragments=[Fragment(name, rows, 1), Fragment("gone.parquet", 1, 1)])
    reporter = Reporter("export", "files")
    with pytest.raises(WorkspaceError, match=r"gone\.parquet"):
        export_folder(workspace, posts, [], f"{tmp_path}/out/", lambda tasks: session.gather(tasks, reporter))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["part-00000.parquet"]


def test_a_folder_on_another_node_is_said(sample: Path, session: RaySession, tmp_path: Path) -> None:
    session.start()
    workspace, name, rows = posts_of(sample)
    posts = Manifest("ingest", "x", {}, fragments=[Fragment(name, rows, 1)])
    with pytest.raises(WorkspaceError, match="1 of 1 files are on other nodes"):
        export_folder(workspace, posts, [], f"{tmp_path}/out/", lambda tasks: [])
