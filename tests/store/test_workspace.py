"""Workspace: an artefact exists only with its manifest, and fingerprints are stable."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from cluster.rehearse import Bucket
from smp_ray.errors import WorkspaceError
from smp_ray.store.manifest import MANIFEST, Fragment, Manifest, fingerprint, git_commit, library_versions
from smp_ray.store.workspace import FORMAT, Workspace


def test_fingerprint_depends_on_content_only() -> None:
    assert fingerprint({"a": 1, "b": [2, None]}) == fingerprint({"b": [2, None], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_manifest_round_trip(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path / "w"))
    assert workspace.manifest("ingest", "abc") is None
    manifest = Manifest("ingest", "abc", {"kind": "demo"}, rows=3, fragments=[Fragment("ingest/abc/p.parquet", 3, 10)])
    workspace.commit(manifest)
    assert workspace.manifest("ingest", "abc") == manifest
    assert [found.fingerprint for found in workspace.manifests("ingest")] == ["abc"]
    assert manifest.versions == library_versions()
    assert manifest.git_commit == git_commit()
    assert [path.name for path in (tmp_path / "w/ingest/abc").iterdir()] == [MANIFEST]


def test_folder_without_manifest_does_not_exist(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path))
    (tmp_path / "ingest/abc/posts").mkdir(parents=True)
    assert workspace.manifests("ingest") == []


@pytest.mark.parametrize("text", ["{", "\x00\x01", json.dumps({"stage": "ingest", "fragments": [], "colour": 1})])
def test_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "ingest/abc").mkdir(parents=True)
    (tmp_path / "ingest/abc" / MANIFEST).write_text(text)
    with pytest.raises(WorkspaceError, match=r"abc/manifest\.json: .*delete it"):
        Workspace.open(str(tmp_path)).manifest("ingest", "abc")


def test_the_only_artefact_of_a_folder_replaces_the_one_before(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path))
    for name in ("abc", "def"):
        workspace.commit(Manifest("report", name, {}), alone=True)
    found = workspace.manifest("report", "")
    assert found is not None
    assert found.fingerprint == "def"


def test_a_workspace_of_another_format_is_refused_in_one_line(tmp_path: Path) -> None:
    fresh = Workspace.open(str(tmp_path / "fresh"))
    fresh.check_format()
    fresh.make_dir("ingest")
    fresh.check_format()
    assert json.loads((tmp_path / "fresh" / "workspace.json").read_text()) == {"format": FORMAT}
    (tmp_path / "old" / "ingest" / "abc").mkdir(parents=True)  # format 1 had no marker
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "workspace.json").write_text('{"format": 99}')
    for name, found in (("old", 1), ("new", 99)):
        with pytest.raises(WorkspaceError, match=f"a workspace of format {found}.*name another workspace") as caught:
            Workspace.open(str(tmp_path / name)).check_format()
        assert len(str(caught.value).splitlines()) == 1


def test_writing_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path))
    workspace.write(b"old", "a", "b.txt")
    workspace.write(b"new", "a", "b.txt")
    assert workspace.read("a", "b.txt") == b"new"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_unusable_places(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="cannot be opened"):
        Workspace.open("gopher://hole/in/the/ground")
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="cannot be written"):
        Workspace.open(str(tmp_path / "file")).make_dir("ingest")


def test_relative_is_the_inverse_of_path(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path))
    assert workspace.relative(workspace.path("a", "b/c")) == "a/b/c"


def test_s3_that_fails_every_fifth_time_is_asked_again_by_other_processes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(errors=0.2)
    for name, value in bucket.env.items():
        monkeypatch.setenv(name, value)
    workspace = pickle.loads(pickle.dumps(Workspace.open(bucket.address("run"))))
    for number in range(60):
        data = b"x" * (number + 1)  # shorter than what S3 says of an error
        workspace.write(data, "notes", f"{number}")
        assert workspace.read("notes", f"{number}") == data
    assert len(workspace.files("notes")) == 60
    assert bucket.failed > 20
    bucket.close()


def test_a_workspace_out_of_reach_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket()
    for name, value in bucket.env.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(WorkspaceError, match=r"cannot be read: .*ACCESS_DENIED.*are credentials in the environment\?$"):
        Workspace.open(bucket.address("run")).check_format()
    bucket.close()
