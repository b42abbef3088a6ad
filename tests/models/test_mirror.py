"""A mirror of models: the same model as a folder, copied once a node; what is missing is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from smp_ray.config import build_config, external_data
from smp_ray.demo import MODELS
from smp_ray.errors import ConfigError, ModelError
from smp_ray.families.clip import Clip, ClipSettings
from smp_ray.families.keys import FamilyKey, family_keys
from smp_ray.families.perplexity import PerplexitySettings
from smp_ray.features.steps import transform_of
from smp_ray.models.clip_embedder import ClipEmbedder
from smp_ray.models.language_model import PerplexityScorer
from smp_ray.models.mirror import below, copied
from tests.models.tiny import write_clip_folder

NAMED = {
    "captioner": {"model": "someone/captioner"},
    "clip": {"model": "hf-hub:someone/clip"},
    "perplexity": {"model": "someone/lm"},
}
FOLDERS = {"captioner": "captioner", "clip": "embedder", "lm": "language_model"}


@pytest.fixture
def mirror(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """Puts the shipped models into a bucket; `models` of it is an address, and the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    filesystem, root = pafs.FileSystem.from_uri(bucket.format("models"))
    for name, folder in FOLDERS.items():
        pafs.copy_files(str(MODELS / folder), f"{root}/someone/{name}", pafs.LocalFileSystem(), filesystem)
    return lambda: sorted(path.name for path in (tmp_path / "cache/smp_ray/models").iterdir() if path.is_dir())


def keys_of(models: str | None, **features: object) -> dict[str, FamilyKey]:
    config = build_config({"workspace": "w", "models": models, "source": {"kind": "demo"}, "features": features})
    return family_keys(config.features.sections, config.features.images.limits, lambda _: False, config.models)


def test_a_mirror_and_its_folders_are_the_same_models(
    mirror: Callable[[], list[str]], bucket: str, tmp_path: Path
) -> None:
    for name, folder in FOLDERS.items():
        shutil.copytree(MODELS / folder, tmp_path / "folders/someone" / name)
    remote = keys_of(bucket.format("models"), **NAMED)
    assert {name: key.fingerprint for name, key in remote.items()} == {
        name: key.fingerprint for name, key in keys_of(str(tmp_path / "folders"), **NAMED).items()
    }
    assert {key.fingerprint for key in remote.values()} == {key.fingerprint for key in keys_of(None).values()}
    assert {key.settings["model"] for key in remote.values()} == {one["model"] for one in NAMED.values()}
    assert len(mirror()) == len(FOLDERS)
    for name in ("caption", "clip"):
        assert transform_of(remote[name]) is not None  # checks the identity
    scorer = PerplexityScorer(remote["perplexity"].pinned, "cpu", 1)  # type: ignore[arg-type]
    ours = PerplexityScorer(PerplexitySettings(), "cpu", 1)
    assert scorer.score(["a red boat"])[0] == ours.score(["a red boat"])[0]
    assert ClipEmbedder(remote["clip"].pinned, "cpu").width == 64  # type: ignore[arg-type]


def test_names_stay_in_the_submission_and_embedded_models_and_folders_where_they_are(tmp_path: Path) -> None:
    folder = write_clip_folder(tmp_path / "clip")
    raw = {"families": ["clip", "perplexity"], "clip": {"model": str(folder)}}
    assert [key.pinned.model for key in keys_of("s3://nowhere/models", **raw).values()] == [str(folder), "embedded"]  # type: ignore[attr-defined]
    config = build_config(
        {"workspace": "w", "models": "s3://b/m", "source": {"kind": "demo"}, "features": {**NAMED}},
    )
    assert "text perplexity under someone/lm" in external_data(config)
    assert "s3" not in external_data(config)


def test_it_is_copied_once_whole_and_again_where_it_changed(
    mirror: Callable[[], list[str]], bucket: str, tmp_path: Path
) -> None:
    address = below(bucket.format("models"), "someone/lm")
    folder = copied(address)
    files = sorted(path.name for path in folder.iterdir())
    assert files == sorted(path.name for path in (MODELS / "language_model").iterdir() if path.suffix != ".md")
    (folder / "mark").write_text("")
    assert copied(address) == folder
    assert (folder / "mark").is_file()  # nobody copied it again
    unfinished = folder.with_name(f".partial-{folder.name}")
    folder.rename(unfinished)
    assert copied(address) == folder
    assert sorted(path.name for path in folder.iterdir()) == files
    filesystem, root = pafs.FileSystem.from_uri(address)
    with filesystem.open_output_stream(f"{root}/config.json") as stream:
        stream.write(b"{ }")
    assert (copied(address) / "config.json").read_text() == "{ }"
    assert copied(address) != folder
    assert copied(address, only="config.json") not in (folder, copied(address))
    assert [path.name for path in copied(address, only="config.json").iterdir()] == ["config.json"]


def test_what_a_mirror_lacks_is_named(mirror: Callable[[], list[str]], bucket: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^perplexity: no model at 's3://bucket/models/someone/else': no files"):
        keys_of(bucket.format("models"), families=["perplexity"], perplexity={"model": "someone/else"})
    with pytest.raises(ModelError, match=rf"^perplexity: '{tmp_path}/someone/else' is no model folder"):
        keys_of(str(tmp_path), families=["perplexity"], perplexity={"model": "someone/else"})
    with pytest.raises(ModelError, match=r"cannot be copied"):
        copied("ftp://host/model")


def test_a_cache_that_cannot_be_written_serves_what_it_has(
    mirror: Callable[[], list[str]], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(below(bucket.format("models"), "someone/lm"))
    lock = folder.with_name(f"{folder.name}.lock")
    lock.unlink()
    lock.mkdir()
    assert copied(below(bucket.format("models"), "someone/lm")) == folder
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"file/smp_ray/models' is read only .* set XDG_CACHE_HOME"):
        copied(below(bucket.format("models"), "someone/lm"))


def test_a_tag_of_open_clip_is_refused_with_the_name_to_use() -> None:
    tagged = ClipSettings(model="ViT-B-32", pretrained="laion2b_s34b_b79k")
    with pytest.raises(ModelError, match="hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K and pretrained to null"):
        Clip.mirrored(tagged, "s3://bucket/models")


def test_weights_of_a_file_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_text("")
    settings = ClipSettings(model="ViT-B-32", pretrained=str(tmp_path / "weights.safetensors"))
    assert Clip.mirrored(settings, "s3://bucket/models") == settings


def test_addresses() -> None:
    assert (
        below("s3://b/m?endpoint_override=h:1&scheme=http", "a/b") == "s3://b/m/a/b?endpoint_override=h:1&scheme=http"
    )
    assert below("~/models/", "a/b") == "~/models/a/b"
    assert below("models", "a/b") == str(Path.cwd() / "models/a/b")
    for models, words in (("gs://b/m", "s3://bucket/prefix"), ("s3://k:s@b/m", "credentials")):
        with pytest.raises(ConfigError, match=words):
            build_config({"workspace": "w", "models": models, "source": {"kind": "demo"}})
