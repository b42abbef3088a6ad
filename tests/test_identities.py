"""Raw data are hashed once while they stay as they are, and a hub is asked at most once a model and command."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from smp_ray.config import Config, build_config
from smp_ray.demo import MODELS
from smp_ray.errors import FeaturePassError
from smp_ray.pipeline import export, open_run, run_stages
from smp_ray.ray_session import RaySession
from smp_ray.shell import print_summary
from tests.features.conftest import run_command, write_table

MODEL = "someone/language-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A cache that holds the small language model as a hub would have left it."""
    kept = tmp_path / "hub" / f"models--{MODEL.replace('/', '--')}"
    shutil.copytree(MODELS / "language_model", kept / "snapshots" / COMMIT)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


def write_config(folder: Path) -> tuple[Path, Config]:
    table = write_table(folder / "posts.csv", [{"id": i, "title": f"a red boat number {i}"} for i in range(12)])
    path = folder / "config.yaml"
    path.write_text(
        f"workspace: {folder / 'run'}\n"
        f"source: {{kind: table, path: {table}, columns: {{post_id: id, title: title}}}}\n"
        f"features: {{families: [perplexity], perplexity: {{model: {MODEL}}}}}\n"
    )
    raw = {
        "workspace": str(folder / "run"),
        "source": {"kind": "table", "path": str(table), "columns": {"post_id": "id", "title": "title"}},
        "features": {"families": ["perplexity"], "perplexity": {"model": MODEL}},
    }
    return path, build_config(raw)


@pytest.mark.slow
def test_identities_are_found_out_once(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, config = write_config(tmp_path)
    first = run_command("run", str(path), HF_HUB_CACHE=str(hub), HF_HUB_OFFLINE="1")
    assert first.returncode == 0, first.stderr
    os.utime(tmp_path / "posts.csv", (1e9, 1e9))  # another time of change, and one that is long ago

    asked: Counter[str] = Counter()

    def resolve_revision(repository: str, **_: Any) -> Any:
        """Counts questions to the hub and knows one commit."""
        asked[repository] += 1
        return type("Resolved", (), {"resolved": COMMIT})

    read: Counter[str] = Counter()
    real = hashlib.blake2b

    class Counting:
        """A hash that remembers how often the raw table went through it."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._hash = real(*arguments, **options)
            for data in arguments:
                self._note(data)

        def update(self, data: bytes) -> None:
            self._note(data)
            self._hash.update(data)

        def _note(self, data: bytes) -> None:
            read["raw"] += bytes(data) == raw

        def __getattr__(self, name: str) -> Any:
            return getattr(self._hash, name)

    raw = (tmp_path / "posts.csv").read_bytes()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "resolve_revision", resolve_revision)
    monkeypatch.setattr(hashlib, "blake2b", Counting)

    status = open_run(config, RaySession(config.ray))
    assert not status.session.started
    assert print_summary(status)
    assert (asked[MODEL], read["raw"]) == (1, 1)

    asked.clear()
    read.clear()
    again = open_run(config, RaySession(config.ray))
    run_stages(again)
    assert print_summary(again)
    assert export(again, str(tmp_path / "out.parquet")) == 12
    assert not again.computed
    assert not again.session.started
    assert (asked[MODEL], read["raw"]) == (1, 0)  # the workspace remembers the hash


def test_a_worker_that_finds_another_model_fails(session: RaySession, tmp_path: Path) -> None:
    """The model changes between the fingerprint and the workers' loading: nothing is computed with it."""
    shutil.copytree(MODELS / "language_model", tmp_path / "model")
    table = write_table(tmp_path / "posts.csv", [{"id": i, "title": f"a boat {i}"} for i in range(12)])
    raw = {
        "workspace": str(tmp_path / "run"),
        "source": {"kind": "table", "path": str(table), "columns": {"post_id": "id", "title": "title"}},
        "features": {"families": ["perplexity"], "perplexity": {"model": str(tmp_path / "model")}},
    }
    run = open_run(build_config(raw), session)
    assert run.families["perplexity"].fingerprint
    changed = tmp_path / "model" / "tokenizer_config.json"
    changed.write_text(changed.read_text() + "\n")
    with pytest.raises(FeaturePassError, match=r"perplexity: file 'tokenizer_config\.json' is not the one"):
        run_stages(run, ["features"])
