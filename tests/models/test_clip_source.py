"""What open_clip's (model, pretrained, revision) name, and that exactly that is loaded: from a hub made here."""

from __future__ import annotations

import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from smp_ray.demo import MODELS
from smp_ray.errors import ModelError
from smp_ray.families.clip import ClipSettings
from smp_ray.models.clip_embedder import ClipEmbedder, ClipTransform, clip_width
from smp_ray.models.clip_source import clip_source
from tests.hub import NEW, OLD, serving, use
from tests.models.tiny import HARD_TEXTS, pictures, write_clip_folder

TAG = {
    "url": "", "hf_hub": "someone/model/", "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3),
    "interpolation": "bilinear", "resize_mode": "squash", "size": 999, "quick_gelu": True,
}  # fmt: skip


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The older commit is the embedder that is shipped, the newer another model."""
    with serving(tmp_path / "hub") as made:
        shutil.copytree(MODELS / "embedder", made.commits[OLD])
        write_clip_folder(made.commits[NEW])
        use(made, tmp_path / "home", monkeypatch)
        yield made


@pytest.fixture
def tagged(hub, monkeypatch):
    """A tag of open_clip's for a built-in name, whose weights lie in that repository."""
    config = json.loads((hub.commits[NEW] / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-8", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-8", {"some_tag": TAG})
    return ClipSettings(model="Tiny/8", pretrained="some-tag")


def embedded_by(settings: ClipSettings) -> np.ndarray:
    transform, embedder = ClipTransform(settings), ClipEmbedder(settings, device="cpu")
    images = embedder.embed_images(np.stack([transform.pixels(image) for image in pictures(3)]))
    return np.concatenate([images, embedder.embed_texts(HARD_TEXTS)])


def test_a_hub_model_is_the_commit_that_the_settings_name(hub):
    settings = ClipSettings(model="hf-hub:someone/model", revision=OLD)
    assert clip_source(settings).identity() == {"name": "hf-hub:someone/model", "revision": OLD}
    assert clip_width(settings) == 64
    # Tokenizer included: the newer commit has none of its own, and other weights.
    np.testing.assert_array_equal(embedded_by(settings), embedded_by(ClipSettings(model="embedded")))
    names = [path.name for path in (MODELS / "embedder").iterdir()]
    assert hub.files(OLD) == sorted((method, name) for name in names for method in ("GET", "HEAD"))
    assert hub.files(NEW) == []
    assert hub.looked_up == 0


@pytest.mark.parametrize(("revision", "commit"), [(None, NEW), ("main", NEW), ("v1", OLD)])
def test_the_commit_is_looked_up_once(hub, tagged, revision, commit):
    for settings in (ClipSettings(model="hf-hub:someone/model"), tagged):
        hub.asked.clear()
        source = clip_source(settings.model_copy(update={"revision": revision}))
        assert source.identity()["revision"] == commit
        assert hub.looked_up == len(hub.asked) == 1


def test_weights_that_are_only_there_as_a_pickle(hub):
    expected = embedded_by(ClipSettings(model="hf-hub:someone/model", revision=NEW))
    shutil.rmtree(hub.commits[OLD])
    pickled = shutil.copytree(hub.commits[NEW], hub.commits[OLD])
    torch.save(load_file(pickled / "open_clip_model.safetensors"), pickled / "open_clip_pytorch_model.bin")
    (pickled / "open_clip_model.safetensors").unlink()
    np.testing.assert_array_equal(embedded_by(ClipSettings(model="hf-hub:someone/model", revision=OLD)), expected)
    assert ("GET", "open_clip_pytorch_model.bin") in hub.files(OLD)


def test_a_repository_without_weights_is_said_to_have_none(hub):
    (hub.commits[NEW] / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"someone/model' has none of .*open_clip_pytorch_model.bin"):
        ClipEmbedder(ClipSettings(model="hf-hub:someone/model", revision=NEW))


def test_a_tag_loads_as_open_clip_loads_it_but_of_one_commit(hub, tagged):
    assert clip_source(tagged).identity() == {"name": "Tiny/8", "pretrained": "some-tag", "revision": NEW}
    model, _, preprocess = open_clip.create_model_and_transforms("Tiny-8", "some_tag", force_quick_gelu=True)
    shutil.rmtree(constants.HF_HUB_CACHE)
    hub.asked.clear()
    pinned = tagged.model_copy(update={"revision": NEW})
    transform, embedder = ClipTransform(pinned), ClipEmbedder(pinned, device="cpu")
    assert [name for method, name in hub.files(NEW) if method == "GET"] == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    assert embedder._model.visual.preprocess_cfg == model.visual.preprocess_cfg
    assert transform.config | {"size": transform.shape[:2]} == model.visual.preprocess_cfg
    assert transform.config["mean"] == TAG["mean"]
    assert embedder._model.transformer.resblocks[0].mlp.gelu._get_name() == "QuickGELU"
    tokens = open_clip.get_tokenizer("Tiny-8")(HARD_TEXTS)
    expected = model.eval().encode_text(tokens, normalize=True).detach().numpy()
    np.testing.assert_allclose(embedder.embed_texts(HARD_TEXTS), expected, atol=1e-6)
    pixels = np.stack([transform.pixels(image) for image in pictures(3)])
    batch = torch.stack([preprocess(image) for image in pictures(3)])
    expected = model.encode_image(batch, normalize=True).detach().numpy()
    np.testing.assert_allclose(embedder.embed_images(pixels), expected, atol=1e-5)
    with pytest.raises(ModelError, match="Tiny/8"):  # the older commit has weights of another shape
        ClipEmbedder(tagged.model_copy(update={"revision": OLD}))


def test_a_tags_tokenizer_is_of_the_same_commit(hub, monkeypatch):
    entry = open_clip.get_pretrained_cfg("ViT-B-16-SigLIP2", "webli") | {"hf_hub": "someone/model/"}
    config = open_clip.get_model_config("ViT-B-16-SigLIP2")
    config["text_cfg"]["hf_tokenizer_name"] = "someone/model"
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-B-16-SigLIP2", {"webli": entry})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16-SigLIP2", config)
    source = clip_source(ClipSettings(model="ViT-B-16-SigLIP2", pretrained="webli", revision=OLD))
    _, tokenizer = source.arguments()
    assert tokenizer == {"model_name": "ViT-B-16-SigLIP2", "trust_remote_code": False, "revision": OLD}


def test_a_tokenizer_of_another_repository_counts_and_is_of_one_commit(hub, monkeypatch, tmp_path):
    config = open_clip.get_model_config("ViT-B-16-SigLIP2")
    config["text_cfg"]["hf_tokenizer_name"] = "someone/model"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16-SigLIP2", config)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"1")
    source = clip_source(ClipSettings(model="ViT-B-16-SigLIP2", pretrained=str(weights)))
    assert source.identity()["tokenizer"] == {"name": "someone/model", "revision": NEW}
    _, tokenizer = source.arguments()
    assert tokenizer == {"model_name": "ViT-B-16-SigLIP2", "trust_remote_code": False, "revision": NEW}
    assert ("GET", "open_clip_config.json") in hub.files(NEW)
    assert ("GET", "open_clip_model.safetensors") not in hub.files(NEW)


def test_a_tag_without_a_repository_is_its_url(monkeypatch):
    entry = TAG | {"hf_hub": "", "url": "https://example.org/0123abc/ViT-B-32.pt"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["ViT-B-32"], "openai", entry)
    source = clip_source(ClipSettings(model="ViT-B-32", pretrained="openai"))
    assert source.identity() == {"name": "ViT-B-32", "pretrained": "https://example.org/0123abc/ViT-B-32.pt"}
    assert source.arguments()[0] == {"model_name": "ViT-B-32", "pretrained": "openai", "force_quick_gelu": True}


def test_a_weights_file_is_its_content(tmp_path, monkeypatch):
    def of(pretrained: object) -> dict:
        return clip_source(ClipSettings(model="ViT-B-32", pretrained=str(pretrained))).identity()

    weights = tmp_path / "a.safetensors"
    weights.write_bytes(b"1")
    one = of(weights)
    weights = weights.rename(tmp_path / "openai")
    monkeypatch.chdir(tmp_path)
    # Also one that is called like a tag, which open_clip alone would take for the tag.
    assert of("openai") == of(weights) == one
    named = clip_source(ClipSettings(model="ViT-B-32", pretrained="openai")).arguments()[0]
    assert named == {"model_name": "ViT-B-32", "pretrained": str(weights), "force_quick_gelu": False}
    weights.write_bytes(b"2")
    assert of(weights) != one


def test_a_folder_is_its_files_wherever_it_lies(tmp_path):
    embedded = clip_source(ClipSettings()).identity()
    copy = shutil.copytree(MODELS / "embedder", tmp_path / "copy")
    found = clip_source(ClipSettings(model=str(copy))).identity()
    assert (embedded["name"], found["name"]) == ("embedded", "folder")
    assert found["files"] == embedded["files"]
    assert sorted(found["files"]) == sorted(path.name for path in copy.iterdir())


@pytest.mark.parametrize("where", [("text_cfg", "tokenizer_kwargs"), ("text_cfg", "list")])
def test_code_of_a_models_own_is_never_trusted(tmp_path, where):
    folder = write_clip_folder(tmp_path / "model", own_tokenizer=True)
    for name in ("open_clip_model.safetensors", "tokenizer.json"):
        (folder / name).unlink()  # so that loading anything would end otherwise
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    trusting = {"trust_remote_code": True}
    config["model_cfg"][where[0]][where[1]] = trusting if where[1] == "tokenizer_kwargs" else [trusting]
    path.write_text(json.dumps(config))
    for part in (ClipEmbedder, ClipTransform, clip_width):
        with pytest.raises(ModelError, match="trust_remote_code") as caught:
            part(ClipSettings(model=str(folder)))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("settings", "words"), [
    ({"model": "~/nowhere"}, "no model folder"),
    ({"model": "ViT-B-32"}, "pretrained"),
    ({"model": "ViT-B-32", "pretrained": "./nowhere.pt"}, "neither a weights file"),
    ({"model": "ViT-B-32", "pretrained": "no-such-tag"}, "laion2b_s34b_b79k"),
    ({"model": "ViT-Z-99", "pretrained": "openai"}, "neither a folder nor a name"),
])  # fmt: skip
def test_what_is_missing_is_named(settings, words):
    with pytest.raises(ModelError, match=words):
        clip_source(ClipSettings(**settings)).identity()


def test_a_text_tower_of_another_repository_is_of_the_tokenizers_commit(hub, monkeypatch, tmp_path):
    made = write_clip_folder(tmp_path / "made", own_tokenizer=True, kind="hf")
    shutil.rmtree(hub.commits[NEW])
    left_out = shutil.ignore_patterns("open_clip*", "tower")
    shutil.copytree(made, hub.commits[NEW], ignore=left_out)
    shutil.copy(made / "tower" / "config.json", hub.commits[NEW])
    config = json.loads((made / "open_clip_config.json").read_text())["model_cfg"]
    config["text_cfg"] |= {"hf_model_name": "someone/model", "hf_tokenizer_name": "someone/model"}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-hf", config)
    settings = ClipSettings(model="Tiny-hf", pretrained=str(made / "open_clip_model.safetensors"))
    found = ClipEmbedder(settings, device="cpu").embed_texts(HARD_TEXTS)
    expected = ClipEmbedder(ClipSettings(model=str(made)), device="cpu").embed_texts(HARD_TEXTS)
    np.testing.assert_array_equal(found, expected)
    assert ("GET", "config.json") in hub.files(NEW)
    assert hub.looked_up == 1, "what main is now is asked once"
