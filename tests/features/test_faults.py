"""Passes that are stopped: Ctrl-C, and what an interrupted one leaves to the next (kills: test_lost_nodes)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from smp_ray.config import load_config
from smp_ray.features.feature_pass import written as whole_files
from smp_ray.pipeline import export, open_run
from smp_ray.ray_session import RaySession
from smp_ray.store.reader import PASSES
from smp_ray.store.workspace import Workspace
from tests.features.conftest import command, write_table

POSTS = 640
LIMIT = 240.0


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, POSTS)


def write_config(tmp_path: Path, posts: int) -> Path:
    """Enough text for a few dozen small blocks, so that a kill falls between the first and the last."""
    words = ["boat", "lake", "red", "tree", "old", "bridge", "night", "harbour", "stone", "cat"]
    rows = [
        {"id": f"p{i}", "title": " ".join(words[(i * k) % 10] for k in range(1, 60)) + f" {i}", "image": ""}
        for i in range(posts)
    ]
    table = write_table(tmp_path / "posts.csv", rows)
    path = tmp_path / "config.yaml"
    path.write_text(
        f"workspace: {tmp_path / 'run'}\n"
        f"source: {{kind: table, path: {table}, columns: {{post_id: id, title: title, image: image}}}}\n"
        "features:\n"
        "  {families: [clip, perplexity], rows_per_block: 40, perplexity: {batch_size: 4}, clip: {batch_size: 8}}\n"
    )
    return path


def written(config: Path) -> int:
    """Files that are whole."""
    workspace = Workspace.open(str(config.parent / "run"))
    folders = {info.path.split("/data/")[0] for info in workspace.files(PASSES) if "/data/" in info.path}
    return sum(len(whole_files(workspace, workspace.relative(folder))) for folder in folders)


def start(config: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            command("features", str(config)), stderr=file, stdout=file, env={**os.environ},
            # As a terminal starts it: whoever is started in the background of a shell ignores Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[bytes], log: Path) -> None:
    began = time.monotonic()
    while not condition():
        assert running.poll() is None, f"ended before the kill:\n{log.read_text()}"
        assert time.monotonic() - began < LIMIT, f"nothing happened:\n{log.read_text()}"
        time.sleep(0.05)


def assert_every_post_once(config: Path) -> None:
    loaded = load_config(config)
    out = config.parent / "export.parquet"
    assert export(open_run(loaded, RaySession(loaded.ray)), str(out)) == POSTS
    frame = pd.read_parquet(out)
    assert sorted(frame["post_id"]) == sorted(f"p{i}" for i in range(POSTS))
    assert (frame["perplexity_status"] == "ok").all()
    # The store itself holds each post once, not only the join.
    manifest = json.loads(next(config.parent.glob("run/features/perplexity/*/manifest.json")).read_text())
    parts = pd.concat(
        pd.read_parquet(config.parent / "run" / part["path"], columns=["row_id"]) for part in manifest["fragments"]
    )
    assert len(parts) == POSTS
    assert parts["row_id"].is_unique


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    config = write_config(tmp_path, 4 * POSTS)  # so many that it is not done between two presses
    log = tmp_path / "stopped.log"
    running = start(config, log)
    wait_for(lambda: written(config) >= 2, running, log)
    began = time.monotonic()
    while running.poll() is None and "Stopped." not in log.read_text():
        assert time.monotonic() - began < 60, log.read_text()
        # Python drops an interrupt that falls into a finalizer; like a user, press the keys again.
        running.send_signal(signal.SIGINT)
        time.sleep(4)
    assert running.wait(timeout=60) == 130
    lines = log.read_text().splitlines()
    assert "run the same command again to go on" in lines[-1]
    assert not any(line.startswith("Traceback") for line in lines)


@pytest.mark.slow
def test_what_an_interrupted_pass_has_done_serves_the_next_whatever_it_computes(tmp_path: Path) -> None:
    config, log = write_config(tmp_path, POSTS), tmp_path / "killed.log"
    config.write_text(config.read_text().replace("[clip, perplexity]", "[caption, clip, perplexity]"))
    running = start(config, log)
    wait_for(lambda: written(config) >= 0.6 * POSTS / 40, running, log)
    running.kill()
    running.wait()
    rows = [{"id": f"p{i}", "title": f"appended {i}", "image": ""} for i in range(POSTS, POSTS + 100)]
    appended = (write_table(tmp_path / "more.csv", rows).read_text()).partition("\n")[2]
    with (tmp_path / "posts.csv").open("a") as file:
        file.write(appended)
    config.write_text(
        config.read_text().replace("clip: {batch_size: 8}", "clip: {batch_size: 8}, captioner: {max_new_tokens: 5}")
    )
    again = subprocess.run(command("features", str(config)), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    line = next(line for line in again.stderr.splitlines() if line.endswith(f"to compute, of {POSTS + 100} posts"))
    todo = dict(re.findall(r"(\w+) (\d+)", line))
    assert int(todo["caption"]) == int(todo["clip"]) == POSTS + 100  # clip reads captions
    kept = POSTS + 100 - int(todo["perplexity"])
    assert 0.5 * POSTS <= kept < POSTS
    # Counted in the files as well: what the second pass wrote holds no perplexity of posts that were kept.
    newest = max(config.parent.glob("run/features/passes/*/pass.json")).parent
    parts = [pd.read_parquet(path, columns=["perplexity_status"]) for path in newest.glob("data/*.parquet")]
    assert pd.concat(parts)["perplexity_status"].notna().sum() == int(todo["perplexity"])
