"""What identifies a model, and what it costs to ask."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from smp_ray.config import CaptionerConfig, ClipConfig, PerplexityConfig
from smp_ray.errors import ModelError
from smp_ray.models import identity
from smp_ray.models.identity import file_digest, model_identity

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    model = tmp_path / "model"
    (model / "qformer_tokenizer").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (model / "qformer_tokenizer" / "vocab.txt").write_text("a\nb\n")
    return model


def of(folder) -> dict:
    found = model_identity("captioner", CaptionerConfig(model=str(folder)))
    assert json.loads(json.dumps(found)) == found
    return found


def test_a_changed_byte_changes_it_and_a_move_does_not(folder):
    before = of(folder)
    moved = folder.rename(folder.with_name("elsewhere"))
    assert of(moved) == before
    assert str(moved.parent) not in json.dumps(before)
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[5000] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    changed = of(moved)
    assert [name for name in before["files"] if before["files"][name] != changed["files"][name]] == [
        "model.safetensors"
    ]


def test_files_of_no_consequence_are_left_out(folder):
    before = of(folder)
    assert sorted(before["files"]) == ["config.json", "model.safetensors", "qformer_tokenizer/vocab.txt"]
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    for name in (".gitattributes", "README.md", "LICENSE", "model.onnx"):
        (folder / name).write_text("x")
    assert of(folder) == before
    (folder / "merges.txt").write_text("x")
    assert of(folder) != before


def test_large_files_are_sampled_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(identity, "SAMPLE_BYTES", 64)
    path = tmp_path / "weights"
    data = bytearray(100_000)
    path.write_bytes(data)
    digests = {file_digest(path)}
    for place in (0, 63, len(data) - 1):
        changed = bytearray(data)
        changed[place] = 1
        path.write_bytes(changed)
        digests.add(file_digest(path))
    path.write_bytes(data + b"\0")
    digests.add(file_digest(path))
    assert len(digests) == 5


def test_of_a_gguf_model_one_file_counts(folder):
    (folder / "weights.gguf").write_bytes(b"GGUF")
    settings = PerplexityConfig(model=str(folder), gguf_file="weights.gguf")
    assert list(model_identity("perplexity", settings)["files"]) == ["weights.gguf"]
    with pytest.raises(ModelError, match="no GGUF file"):
        model_identity("perplexity", PerplexityConfig(model=str(folder), gguf_file="other.gguf"))


def test_open_clip_names(tmp_path):
    tagged = model_identity("clip", ClipConfig(model="ViT-B-32", pretrained="laion2b_s34b_b79k"))
    assert tagged == {"name": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}
    weights = tmp_path / "a.safetensors"
    weights.write_bytes(b"1")
    one = model_identity("clip", ClipConfig(model="ViT-B-32", pretrained=str(weights)))
    assert (
        model_identity("clip", ClipConfig(model="ViT-B-32", pretrained=str(weights.rename(tmp_path / "b.pt")))) == one
    )
    (tmp_path / "b.pt").write_bytes(b"2")
    assert model_identity("clip", ClipConfig(model="ViT-B-32", pretrained=str(tmp_path / "b.pt"))) != one


def test_hub_ids_are_pinned_by_commit(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pinned = model_identity("perplexity", PerplexityConfig(model="openai-community/gpt2", revision=COMMIT))
    assert pinned == {"name": "openai-community/gpt2", "revision": COMMIT}
    with pytest.raises(ModelError, match="pin the revision") as caught:
        model_identity("perplexity", PerplexityConfig(model="openai-community/gpt2"))
    assert "\n" not in str(caught.value)
    refs = tmp_path / "models--openai-community--gpt2" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    assert model_identity("perplexity", PerplexityConfig(model="openai-community/gpt2")) == pinned


@pytest.mark.parametrize(("family", "settings", "words"), [
    ("captioner", CaptionerConfig(model="./nowhere"), "no model folder"),
    ("clip", ClipConfig(model="~/nowhere"), "no model folder"),
    ("clip", ClipConfig(model="ViT-B-32"), "pretrained"),
    ("clip", ClipConfig(model="ViT-B-32", pretrained="./nowhere.pt"), "no weights file"),
])  # fmt: skip
def test_what_is_missing_is_named(family, settings, words):
    with pytest.raises(ModelError, match=words):
        model_identity(family, settings)


def test_empty_folders_and_files_are_refused(tmp_path):
    with pytest.raises(ModelError, match="empty"):
        of(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is a file"):
        of(tmp_path / "file")


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_identity_loads_no_torch():
    code = (
        "import sys; from smp_ray.models.identity import model_identity; from smp_ray.config import ClipConfig\n"
        "from smp_ray.models import images, loading\n"
        "model_identity('clip', ClipConfig(model='ViT-B-32', pretrained='openai'))\n"
        "assert not {'torch', 'transformers', 'open_clip', 'ray'} & set(sys.modules), sorted(sys.modules)"
    )
    assert run(code).stderr == ""


def test_everything_imports_and_runs_without_ray(folder):
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
sys.meta_path.insert(0, Block())
from smp_ray.models import captioner, clip, identity, images, loading, perplexity, random_weights
from smp_ray.config import PerplexityConfig
folder = random_weights.write_random_language_model({str(folder)!r}, "tiny")
means, counts = perplexity.PerplexityScorer(PerplexityConfig(model=str(folder)), device="cpu").score(["a b"])
assert counts[0] > 0
assert "ray" not in sys.modules
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
