"""What identifies a model, and what it costs to ask.

It also tests `models/settings.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from smp_ray.demo import MODELS
from smp_ray.errors import ModelError
from smp_ray.families.caption import CaptionSettings
from smp_ray.families.clip import ClipSettings
from smp_ray.families.perplexity import PerplexitySettings
from smp_ray.models import identity
from smp_ray.models.clip_source import clip_source
from smp_ray.models.identity import check_identity, file_digest, transformers_identity

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
    found = transformers_identity(CaptionSettings(model=str(folder)), "captioner")
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
    settings = PerplexitySettings(model=str(folder), gguf_file="weights.gguf")
    assert list(transformers_identity(settings, "language_model")["files"]) == ["weights.gguf"]
    with pytest.raises(ModelError, match="no GGUF file"):
        transformers_identity(PerplexitySettings(model=str(folder), gguf_file="other.gguf"), "language_model")


def of_gpt2(revision: str | None = None) -> dict:
    settings = PerplexitySettings(model="openai-community/gpt2", revision=revision)
    return transformers_identity(settings, "language_model")


def test_hub_ids_are_pinned_by_commit(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pinned = of_gpt2(COMMIT)
    assert pinned == {"name": "openai-community/gpt2", "revision": COMMIT}
    with pytest.raises(ModelError, match="pin the revision") as caught:
        of_gpt2()
    assert "\n" not in str(caught.value)
    refs = tmp_path / "models--openai-community--gpt2" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    assert of_gpt2() == pinned


def test_the_embedded_models_are_known_by_their_files():
    for settings, embedded in ((CaptionSettings(), "captioner"), (PerplexitySettings(), "language_model")):
        found = transformers_identity(settings, embedded)
        assert found["name"] == "embedded"
        assert found["files"] == transformers_identity(CaptionSettings(model=str(MODELS / embedded)), "")["files"]


def test_what_is_missing_is_named(tmp_path):
    for model, words in (("./nowhere", "no model folder"), (str(tmp_path), "no config.json")):
        with pytest.raises(ModelError, match=words):
            transformers_identity(CaptionSettings(model=model), "captioner")
    with pytest.raises(ModelError, match="is no model folder"):
        transformers_identity(CaptionSettings(), "no-such-folder")


def test_a_model_that_is_not_the_fingerprinted_one_is_refused(folder):
    before = of(folder)
    check_identity(of(folder), before)
    (folder / "merges.txt").write_text("x")
    with pytest.raises(ModelError, match=r"file 'merges.txt' .*expected none"):
        check_identity(of(folder), before)
    with pytest.raises(ModelError, match=r"file 'merges.txt' .*found none"):
        check_identity(before, of(folder))
    (folder / "merges.txt").unlink()
    (folder / "model.safetensors").write_bytes(b"other")
    words = f"file 'model.safetensors' .* fingerprinted .expected {before['files']['model.safetensors']}, found "
    with pytest.raises(ModelError, match=words):
        check_identity(of(folder), before)
    check_identity(of_gpt2(COMMIT), of_gpt2(COMMIT))
    with pytest.raises(ModelError, match=f"'revision' .* .expected {COMMIT}, found {COMMIT[::-1]}"):
        check_identity(of_gpt2(COMMIT[::-1]), of_gpt2(COMMIT))


def test_empty_folders_and_files_are_refused(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="empty"):
        clip_source(ClipSettings(model=str(tmp_path / "model"))).identity()
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is no model folder"):
        of(tmp_path / "file")


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_identity_loads_no_torch():
    code = """
import sys
from smp_ray.families.caption import CaptionSettings
from smp_ray.families.clip import ClipSettings
from smp_ray.models import captioner, clip_embedder, images, language_model, loading
from smp_ray.models.clip_source import clip_source
from smp_ray.models.identity import transformers_identity
transformers_identity(CaptionSettings(), "captioner")
clip_source(ClipSettings()).identity()
assert clip_embedder.clip_width(ClipSettings()) == 64
assert not {"torch", "transformers", "open_clip", "ray"} & set(sys.modules), sorted(sys.modules)
"""
    assert run(code).stderr == ""


def test_models_stand_on_nothing_of_the_project_but_its_errors():
    code = """
import sys
from smp_ray.models import adapter, captioner, clip_embedder, clip_source, clip_tower, identity, images
from smp_ray.models import language_model, loading, settings
others = {name for name in sys.modules if name.startswith("smp_ray.") and not name.startswith("smp_ray.models")}
assert others == {"smp_ray.errors"}, others
"""
    assert run(code).stderr == ""


def test_everything_imports_and_runs_without_ray(folder):
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
sys.meta_path.insert(0, Block())
from smp_ray.models import captioner, clip_embedder, identity, images, language_model, loading
from jobs.bench import random_weights
from smp_ray.families.perplexity import PerplexitySettings
folder = random_weights.write_random_language_model({str(folder)!r}, "tiny")
means, counts = language_model.PerplexityScorer(PerplexitySettings(model=str(folder)), device="cpu").score(["a b"])
assert counts[0] > 0
assert "ray" not in sys.modules
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
