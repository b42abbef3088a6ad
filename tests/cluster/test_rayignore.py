"""`.rayignore`: what a submitted job's working directory leaves behind, by Ray's own job client."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import ray
from ray.job_submission import JobSubmissionClient

from tests.cluster.manifests import ROOT

SECRETS = (
    ".env", ".env.local", "prod.env", "configs/.env", "a/b/.env", ".netrc", ".aws/credentials", "deep/.aws/config",
    "bucket.pem", "tls.key", "id_rsa", "id_ed25519", ".ssh/id_ed25519.pub", ".kube/config", "kubeconfig.yaml",
    ".ray/auth_token", "auth_token", "credentials.json", "my-credentials.json", "gcp-service-account.json",
    "secrets.yaml", "secrets/s3",
)  # fmt: skip
NEEDED = ("smp_ray", "jobs", "configs", "cluster")
LARGE = (
    ".git/HEAD",
    ".venv/bin/python",
    "runs/demo/metrics.json",
    ".cache/models/weights",
    "smp_ray.egg-info/PKG-INFO",
)


@contextmanager
def receiver() -> Iterator[tuple[str, list[bytes]]]:
    """Address of a server that takes what a job client sends, as a dashboard does, and the packages that came."""
    packages: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            version = {"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session_name": "session_test"}
            self.answer(200, version) if self.path == "/api/version" else self.answer(404, {})

        def do_PUT(self) -> None:
            packages.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(200, {})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(200, {"job_id": "test", "submission_id": "test"})

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", packages
    server.shutdown()


def submitted(folder: Path) -> set[str]:
    """Files that a job with this working directory brings into a cluster."""
    with receiver() as (address, packages):
        client = JobSubmissionClient(address)
        client.submit_job(entrypoint="python jobs/run.py", runtime_env={"working_dir": str(folder)})
    (package,) = packages
    return {name for name in zipfile.ZipFile(io.BytesIO(package)).namelist() if not name.endswith("/")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of what a job needs, and beside it what must not travel."""
    for name in NEEDED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".rayignore", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    for name in (*SECRETS, *LARGE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("secret")
    return tmp_path


def test_no_secret_travels_and_nothing_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)  # a local Ray leaves one behind
    sent = submitted(folder)
    assert sent.isdisjoint({*SECRETS, *LARGE})
    tracked = [path for name in NEEDED for path in (folder / name).rglob("*") if path.is_file()]
    needed = {str(path.relative_to(folder)) for path in tracked} - set(SECRETS)
    assert "configs/cluster.yaml" in needed
    assert needed <= sent
    # Without the file, all of them would.
    (folder / ".rayignore").unlink()
    assert set(SECRETS) <= submitted(folder)


def test_skypilot_reads_the_same_list() -> None:
    assert (ROOT / ".skyignore").read_bytes() == (ROOT / ".rayignore").read_bytes()
