"""Models of a hub: what a node fetches, once; what a busy hub is asked again; and that nobody asks it afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smp_ray.demo import MODELS
from smp_ray.errors import ModelError
from smp_ray.families.perplexity import PerplexitySettings
from smp_ray.models.captioner import CaptionTransform
from smp_ray.models.hub import hub_commit, hub_folder
from smp_ray.models.identity import transformers_identity
from smp_ray.models.language_model import PerplexityScorer
from smp_ray.models.loading import pretrained
from tests.hub import NEW, OLD, REPOSITORY, Hub, serving, use

SETTINGS = PerplexitySettings(model=REPOSITORY, revision=NEW)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The newer commit is the shipped language model, with what else repositories hold."""
    with serving(tmp_path / "commits") as made:
        folder = shutil.copytree(MODELS / "language_model", made.commits[NEW])
        (folder / "onnx").mkdir()
        for name in ("README.md", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/config.json"):
            (folder / name).write_text("{}")
        use(made, tmp_path / "home", monkeypatch)
        yield made


def wanted() -> list[str]:
    return sorted(path.name for path in (MODELS / "language_model").iterdir() if path.suffix != ".md")


def once(names: list[str]) -> list[tuple[str, str]]:
    return sorted((method, name) for name in names for method in ("GET", "HEAD"))


def test_only_what_loading_needs_is_fetched_and_once(hub: Hub) -> None:
    for _ in range(2):
        scores, _ = PerplexityScorer(SETTINGS, "cpu", 1).score(["a red boat on the lake"])
        assert scores == PerplexityScorer(PerplexitySettings(), "cpu", 1).score(["a red boat on the lake"])[0]
    assert hub.files(NEW) == once(wanted())
    assert hub.looked_up == 0
    assert len(hub.asked) == 2 * len(wanted()) + 1  # and one listing


def test_an_identity_costs_one_look_up_and_a_configuration_no_weights(hub: Hub) -> None:
    assert transformers_identity(SETTINGS.model_copy(update={"revision": None}), "")["revision"] == NEW
    assert [path for _, path in hub.asked] == [f"/api/models/{REPOSITORY}"]
    pretrained(SETTINGS, "", weights=False)
    assert [name for _, name in hub.files(NEW) if name.endswith("safetensors")] == []
    shutil.copytree(MODELS / "captioner", hub.commits[OLD])
    CaptionTransform(SETTINGS.model_copy(update={"revision": OLD}))  # type: ignore[arg-type]
    assert [name for _, name in hub.files(OLD) if name.endswith("safetensors")] == []


def test_shards_are_those_of_the_index_and_a_pickle_is_taken_where_nothing_else_is(hub: Hub) -> None:

    folder = hub.commits[OLD]
    folder.mkdir()
    shards = {"a": "model.safetensors-1-of-2.safetensors", "b": "model.safetensors-2-of-2.safetensors"}
    for name in (*shards.values(), "other.safetensors", "pytorch_model.bin"):
        (folder / name).write_text(name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    pretrained(SETTINGS.model_copy(update={"revision": OLD}), "")
    assert hub.files(OLD) == once([*shards.values(), "model.safetensors.index.json"])


PROCESS = f"""
import sys
from smp_ray.families.perplexity import PerplexitySettings
from smp_ray.models.loading import pretrained
print("ready", flush=True)
sys.stdin.readline()
print(pretrained(PerplexitySettings(model="{REPOSITORY}", revision="{NEW}"), "")["pretrained_model_name_or_path"])
"""


def test_of_all_processes_of_a_node_one_asks(hub: Hub, tmp_path: Path) -> None:
    homes = [tmp_path / "one", tmp_path / "one", tmp_path / "other"]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS], env=hub.env(home), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for home in homes
    ]
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"  # noqa: PT018 - for mypy
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    folders = {Path(process.communicate()[0].strip()) for process in running}
    assert all(process.returncode == 0 for process in running)
    assert len(folders) == 2
    assert hub.files(NEW) == sorted(once(wanted()) * 2)
    assert len(hub.asked) == 2 * (2 * len(wanted()) + 1)
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == wanted()


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again(hub: Hub, status: int) -> None:
    hub.busy, hub.refusal = 2, status
    assert hub_commit(REPOSITORY, None) == NEW
    assert hub.refused == 2
    hub.busy = 1
    assert (hub_folder(REPOSITORY, NEW) / "config.json").is_file()
    assert hub.refused == 3


def test_what_is_not_there_is_said_at_once(hub: Hub) -> None:
    with pytest.raises(ModelError, match=r"someone/else.*cannot be found out"):
        hub_commit("someone/else", None)
    with pytest.raises(ModelError, match="no such folder or hub model"):
        pretrained(SETTINGS.model_copy(update={"model": "someone/else"}), "")
    assert len(hub.asked) == 2


def test_a_cache_that_cannot_be_written_serves_what_it_has(hub: Hub, tmp_path: Path) -> None:
    folder = hub_folder(REPOSITORY, NEW)
    asked = len(hub.asked)
    shutil.rmtree(tmp_path / "home/hub/.locks")
    (tmp_path / "home/hub/.locks").write_text("")
    assert hub_folder(REPOSITORY, NEW) == folder
    assert len(hub.asked) == asked
