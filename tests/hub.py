"""A hub of models on loopback that speaks what huggingface_hub asks, and counts it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import unquote

import pytest
from huggingface_hub import constants, hf_api

REPOSITORY = "someone/model"
#: What huggingface_hub's telemetry asks once a day and cache; not counted.
AGENTS = "/api/agent-harnesses"
OLD, NEW = "0" * 40, "1" * 40


class Hub:
    """One repository, `someone/model`, whose commits are folders, with two names: main is the newer one, v1 the older.

    Attributes:
        asked: method and path of every request that was answered.
        busy: how many requests are refused first.
        refusal: status of the refusals.
        refused: how many were.
    """

    def __init__(self, folder: Path) -> None:
        self.commits = {OLD: folder / OLD, NEW: folder / NEW}
        self.asked: list[tuple[str, str]] = []
        self.busy, self.refusal, self.refused = 0, 429, 0
        self.url = ""
        self.lock = Lock()

    def env(self, home: Path) -> dict[str, str]:
        """Environment of a process on a node with this cache."""
        kept = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        return {**kept, "HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}

    def files(self, commit: str) -> list[tuple[str, str]]:
        """Method and name of all file requests for a commit, sorted."""
        prefix = f"/{REPOSITORY}/resolve/{commit}/"
        return sorted((method, path.removeprefix(prefix)) for method, path in self.asked if path.startswith(prefix))

    @property
    def looked_up(self) -> int:
        """How often the commit of a name was asked for."""
        return sum(path.startswith("/api/") and "/tree/" not in path for _, path in self.asked)

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of a request."""
        if path == AGENTS:
            return 200, b'{"standardEnvVars": [], "harnesses": {}}', {}
        api, _, file = unquote(path).removeprefix("/api/models").partition(f"/{REPOSITORY}")
        kind, _, rest = file.strip("/").partition("/")
        named, _, name = rest.partition("/")
        folder = self.commits.get({"": NEW, "main": NEW, "v1": OLD}.get(named, named))
        if api or folder is None or not folder.is_dir():
            return 404, b"{}", {"X-Error-Code": "RepoNotFound" if api else "RevisionNotFound"}
        if kind in ("", "revision"):
            return 200, json.dumps({"id": REPOSITORY, "sha": folder.name}).encode(), {}
        if kind == "tree":
            found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            listed = [
                {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": "0"}
                for path in found
            ]
            return 200, json.dumps(listed).encode(), {}
        if not (folder / name).is_file():
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        data = (folder / name).read_bytes()
        return 200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": folder.name}


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """A hub with the commits in a folder, until the end of the block."""
    hub = Hub(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            with hub.lock:
                refuse = hub.busy > 0 and path != AGENTS
                hub.busy -= refuse
                hub.refused += refuse
                if not refuse and path != AGENTS:
                    hub.asked.append((self.command, path))
            status, body, headers = (hub.refusal, b"", {"Retry-After": "0"}) if refuse else hub.answer(path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - as http.server wants it

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def use(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process, which has imported huggingface_hub, ask the hub, with an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
