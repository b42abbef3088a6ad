"""A pass over pictures on the web: every post gets what its server deserves, and odd servers hold nobody up."""

from __future__ import annotations

import http.server
import re
import subprocess
import threading
import time
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.conftest import OBJECT_STORE
from tests.features.conftest import command, run_command, write_table
from tests.fetch.hostile import CASES, PICTURE, serving

POSTS = 2000
#: Odd servers, of two answers each: one that breaks connections is asked for little at a time.
HOSTS = 31


def write_config(folder: Path, images: list[str], families: tuple[str, ...] = ("clip",), **settings: Any) -> Path:
    rows = [{"id": f"p{number}", "title": f"a boat {number}", "image": image} for number, image in enumerate(images)]
    config = {
        "workspace": str(folder / "run"),
        "source": {
            "kind": "table", "path": str(write_table(folder / "posts.csv", rows)),
            "columns": {"post_id": "id", "title": "title", "image": "image"},
        },
        "features": {
            "families": list(families),
            "images": {"timeout_s": 5, "allow_private": True, "max_bytes": 2**22, **settings},
        },
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def seconds_of_passes(folder: Path, families: tuple[str, ...], kinds: tuple[str, ...]) -> list[float]:
    """Seconds of passes over pictures, among them odd ones or none (kind `plain`); what each post got is checked."""
    # A table's source rejects what is neither a path nor a URL that it can read.
    odd = [case for case in CASES if not case.path.startswith(("ftp:", "gopher:", "http://[::1/"))]
    odd += [case for case in CASES if case.path == "/drip.jpg"] * 10
    seconds = []
    with ExitStack() as running:
        healthy, *hostile = [running.enter_context(serving()) for _ in range(1 + HOSTS)]
        for kind in kinds:
            images, expected = [f"{healthy.url}/ok.jpg?{number}" for number in range(POSTS)], ["ok"] * POSTS
            for number, case in enumerate(odd if kind == "odd" else ()):
                place = number * POSTS // len(odd)
                images[place], expected[place] = case.url(hostile[number % HOSTS].url), case.status
            (folder / kind).mkdir(parents=True)
            config, out = write_config(folder / kind, images, families, timeout_s=10), folder / "out.parquet"
            began = time.monotonic()
            done = run_command("features", str(config))
            seconds.append(time.monotonic() - began)
            assert done.returncode == 0, done.stderr
            assert run_command("export", str(config), "--out", str(out)).returncode == 0
            frame = pd.read_parquet(out)
            frame = frame.assign(number=frame["post_id"].str[1:].astype(int)).sort_values("number")
            found = zip(images, frame["clip_status"], expected, strict=True)
            assert not [(image, status) for image, status, wanted in found if status != wanted]
            if "perplexity" in families:
                assert (frame["perplexity_status"] == "ok").all()
            assert "SECRET" not in " ".join(frame["clip_error"].dropna())
    return seconds


@pytest.mark.slow
def test_odd_servers_cost_their_own_posts(tmp_path: Path) -> None:
    seconds_of_passes(tmp_path, ("clip",), ("odd",))


@pytest.mark.thorough
def test_odd_servers_cost_hardly_any_time(tmp_path: Path) -> None:
    ratios: list[float] = []
    while not ratios or ratios[-1] > 1.3:
        assert len(ratios) < 3, f"odd servers made the pass take {ratios} times as long"
        odd, plain = seconds_of_passes(tmp_path / str(len(ratios)), ("caption", "clip", "perplexity"), ("odd", "plain"))
        print(f"with odd servers {odd:.1f} s, without {plain:.1f} s")
        ratios.append(odd / plain)


@pytest.mark.slow
def test_a_server_that_has_gone_stops_the_pass_and_leaves_no_trace(tmp_path: Path) -> None:
    with serving() as server:
        images = [f"{server.url}/ok.jpg?{number}" for number in range(200)]
        images += [f"{server.url}/status/503?{number}" for number in range(500)]
        path = write_config(tmp_path, images, timeout_s=1)
        stopped = run_command("features", str(path))
        assert stopped.returncode == 1
        error = [line for line in stopped.stderr.splitlines() if line.startswith("Error: ")]
        assert len(error) == 1
        assert re.search(r"the feature pass stopped: of the last \d+ pictures asked for, .* unreachable", error[0])
        # The servers are mended: a proxy of the table's addresses is enough.
        table = tmp_path / "posts.csv"
        table.write_text(table.read_text().replace("/status/503", "/ok.jpg"))
        again = subprocess.run(command("features", str(path)), capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
    out = tmp_path / "out.parquet"
    assert run_command("export", str(path), "--out", str(out)).returncode == 0
    assert (pd.read_parquet(out)["clip_status"] == "ok").all()


class Store(http.server.BaseHTTPRequestHandler):
    """An object store whose credentials expire after so many pictures."""

    protocol_version = "HTTP/1.1"
    left = 0

    def do_GET(self) -> None:
        Store.left -= 1
        refused = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
        body = PICTURE if Store.left >= 0 else refused
        self.send_response(200 if Store.left >= 0 else 403)
        for name, value in (("Content-Length", len(body)), ("ETag", '"1"'), ("Last-Modified", formatdate(usegmt=True))):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Quiet(http.server.ThreadingHTTPServer):
    """Says nothing of clients that hang up."""

    def handle_error(self, *_: object) -> None:
        pass


@pytest.mark.thorough
def test_credentials_that_expire_midway_stop_the_pass_and_cost_no_post(tmp_path: Path) -> None:
    httpd = Quiet(("127.0.0.1", 0), Store)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    bucket = f"s3://pictures?endpoint_override=127.0.0.1:{httpd.server_port}&scheme=http"
    images = [f"s3://pictures/{number}.jpg" for number in range(500)]
    path = write_config(tmp_path, images, timeout_s=1, buckets=[bucket])
    Store.left = 200
    stopped = run_command("features", str(path), **OBJECT_STORE)
    assert stopped.returncode == 1
    (error,) = [line for line in stopped.stderr.splitlines() if line.startswith("Error: ")]
    assert "unreachable" in error
    assert "403" in error or "credentials" in error
    Store.left = 10_000
    again = run_command("features", str(path), **OBJECT_STORE)
    httpd.shutdown()
    assert again.returncode == 0, again.stderr
    out = tmp_path / "out.parquet"
    assert run_command("export", str(path), "--out", str(out)).returncode == 0
    assert (pd.read_parquet(out)["clip_status"] == "ok").all()
