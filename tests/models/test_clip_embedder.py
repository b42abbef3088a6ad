"""Our CLIP against plain open_clip, one input at a time."""

from __future__ import annotations

import time

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from jobs.bench.random_weights import write_random_clip
from smp_ray.errors import ModelError
from smp_ray.families.clip import ClipSettings
from smp_ray.models import clip_embedder as clip_module
from smp_ray.models.clip_embedder import ClipEmbedder, ClipTransform, clip_width, shorten
from smp_ray.models.images import decode, limit_aspect
from tests.models.tiny import HARD_TEXTS, photographs, pictures, write_clip_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def embedder(folder):
    return ClipEmbedder(ClipSettings(model=str(folder), batch_size=5), device="cpu")


def plain(name: str, images: list[Image.Image], texts: list[str], pretrained: str | None = None):
    """The documented use of open_clip, one input at a time."""
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=pretrained)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    with torch.no_grad():
        from_images = [model.encode_image(preprocess(image)[None], normalize=True)[0].numpy() for image in images]
        from_texts = [model.encode_text(tokenizer([text]), normalize=True)[0].numpy() for text in texts]
    return np.array(from_images), np.array(from_texts)


def test_equals_plain_open_clip(folder, embedder):
    images = pictures(17)
    transform = ClipTransform(ClipSettings(model=str(folder)))
    ours = embedder.embed_images(np.stack([transform.pixels(image) for image in images]))
    from_images, from_texts = plain(f"local-dir:{folder}", images, HARD_TEXTS)
    assert ours.dtype == np.float32
    assert ours.shape == (17, 16) == (17, embedder.width)
    np.testing.assert_allclose(ours, from_images, atol=1e-5)
    np.testing.assert_allclose(embedder.embed_texts(HARD_TEXTS), from_texts, atol=1e-5)
    assert np.ptp(ours, axis=0).max() > 0.1  # the pictures are told apart


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_transform_equals_open_clips(tmp_path, mode, interpolation):
    folder = write_clip_folder(tmp_path, resize_mode=mode, interpolation=interpolation, fill_color=3)
    transform = ClipTransform(ClipSettings(model=str(folder)))
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    mean, std = (np.array(model.visual.preprocess_cfg[key]) for key in ("mean", "std"))
    for image in pictures(10):
        pixels = transform.pixels(image)
        assert pixels.dtype == transform.dtype == np.uint8
        assert pixels.shape == transform.shape
        expected = preprocess(image).numpy().transpose(1, 2, 0)
        np.testing.assert_allclose((pixels / 255 - mean) / std, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-plus-240", "RN50x4", "coca_ViT-B-32"])
def test_configuration_alone_says_size_and_width(name, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"")  # only its being there counts
    settings = ClipSettings(model=name, pretrained=str(weights))
    config = open_clip.get_model_config(name)
    assert clip_width(settings) == config["embed_dim"]
    assert ClipTransform(settings).shape == (*(config["vision_cfg"]["image_size"],) * 2, 3)


def test_a_tag_brings_its_own_preprocessing():
    settings = ClipSettings(model="ViT-B-32", pretrained="laion2b_s34b_b79k")
    assert (
        ClipTransform(settings).config["mean"] == open_clip.get_pretrained_cfg("ViT-B-32", settings.pretrained)["mean"]
    )
    assert ClipTransform(ClipSettings(model="ViT-B-16-SigLIP", pretrained="webli")).config["resize_mode"] == "squash"


def test_result_does_not_depend_on_the_batch(folder, embedder):
    transform = ClipTransform(ClipSettings(model=str(folder)))
    pixels = np.stack([transform.pixels(image) for image in pictures(11)])
    together, texts = embedder.embed_images(pixels), embedder.embed_texts(HARD_TEXTS)
    alone = np.concatenate([embedder.embed_images(pixels[row : row + 1]) for row in range(11)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(embedder.embed_texts(HARD_TEXTS[::-1])[::-1], texts, rtol=1e-4, atol=1e-6)


def test_nothing_in_nothing_out(embedder):
    assert embedder.embed_texts([]).shape == (0, 16)
    assert embedder.embed_images(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 16)


def test_rows_have_unit_norm(embedder):
    np.testing.assert_allclose(np.linalg.norm(embedder.embed_texts(HARD_TEXTS), axis=1), 1, atol=1e-6)


def test_a_folder_with_its_own_tokenizer(tmp_path):
    folder = write_clip_folder(tmp_path, own_tokenizer=True)
    ours = ClipEmbedder(ClipSettings(model=str(folder)), device="cpu").embed_texts(HARD_TEXTS)
    np.testing.assert_allclose(ours, plain(f"local-dir:{folder}", [], HARD_TEXTS)[1], atol=1e-5)


def test_long_texts_are_cut_where_it_changes_nothing(embedder):
    generator = np.random.default_rng(0)
    words = [
        " ".join(generator.choice(["sunset", "x", "HARBOUR", "🎉", "3.14", "&amp;", "..."], 3000)) for _ in range(20)
    ]
    for text in [*words, "." * 3000, "é" * 3000, "a" * 3000, "\t\n " * 900 + "end " * 900]:
        assert len(text) > 64 * 16
        assert torch.equal(embedder.tokenize([text]), embedder._tokenizer([text]))
    assert shorten("  short\n", 77) == "  short\n"


def test_very_long_texts_take_no_time(embedder):
    generator = np.random.default_rng(0)
    letters = "".join(generator.choice(list("abcdefghijklmnopqrstuvwxyz"), 100_000))
    begin = time.perf_counter()
    embedder.embed_texts([letters, "word " * 20_000, "🎉" * 25_000, "\0" * 100_000, " " * 100_000])
    assert time.perf_counter() - begin < 5


def test_remembered_words_are_bounded(embedder, monkeypatch):
    monkeypatch.setattr(clip_module, "CACHED_WORDS", 50)
    expected = embedder.tokenize(["sunset <end_of_text> harbour"])
    for start in range(0, 300, 20):
        embedder.tokenize([f"word{chr(97 + index % 26)}{chr(97 + index // 26)}" for index in range(start, start + 20)])
    assert len(embedder._tokenizer.cache) <= 50 + 3 * 20
    assert torch.equal(embedder.tokenize(["sunset <end_of_text> harbour"]), expected)


def test_extreme_aspect_ratios_take_no_memory(folder):
    transform = ClipTransform(ClipSettings(model=str(folder)))
    begin = time.perf_counter()
    for size in ((1, 60_000), (60_000, 1), (3, 40_000)):
        assert transform.pixels(Image.new("RGB", size, (9, 8, 7))).shape == (32, 32, 3)
    assert time.perf_counter() - begin < 2
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (40, 2000, 3), dtype=np.uint8))
    assert limit_aspect(noise).size == (1280, 40)
    whole = np.asarray(transform._steps(noise), np.int16)
    assert np.abs(transform.pixels(noise) - whole).max() <= 1
    assert limit_aspect(Image.new("RGB", (320, 10))).size == (320, 10)


@pytest.mark.parametrize(("settings", "words"), [
    ({"model": "ViT-B-32"}, "pretrained"),
    ({"model": "ViT-B-32", "pretrained": "no-such-tag"}, "laion2b_s34b_b79k"),
    ({"model": "ViT-B-32", "pretrained": "./nowhere.pt"}, "neither a weights file"),
    ({"model": "./nowhere"}, "no model folder"),
    ({"model": "ViT-Z-99", "pretrained": "openai"}, "ViT-Z-99"),
])  # fmt: skip
def test_wrong_settings_end_in_one_line(settings, words):
    for use in (ClipTransform, ClipEmbedder):
        with pytest.raises(ModelError, match=words) as caught:
            use(ClipSettings(**settings))
        assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_not_filled_with_random_numbers(tmp_path):
    folder = write_clip_folder(tmp_path)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match="could not be loaded"):
        ClipEmbedder(ClipSettings(model=str(folder)))
    with pytest.raises(ModelError, match="no open_clip model"):
        ClipTransform(ClipSettings(model=str(tmp_path.parent)))


class Payload:
    def __reduce__(self):
        return (open, ("/tmp/smp_ray_payload_ran", "w"))


def test_weights_that_run_code_are_refused(tmp_path):
    weights = tmp_path / "weights.pt"
    torch.save({"state_dict": Payload()}, weights)
    with pytest.raises(ModelError, match="safetensors"):
        ClipEmbedder(ClipSettings(model="ViT-B-32", pretrained=str(weights)))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_published_sizes_from_a_weights_file(tmp_path, suffix):
    weights = str(write_random_clip(tmp_path / f"weights{suffix}"))
    settings = ClipSettings(model="ViT-B-32", pretrained=weights, batch_size=4)
    embedder, transform = ClipEmbedder(settings, device="cpu"), ClipTransform(settings)
    images = pictures(5) if suffix == ".pt" else [decode(data, 10**8) for data in photographs(6)]
    ours = embedder.embed_images(np.stack([transform.pixels(image) for image in images]))
    from_images, from_texts = plain("ViT-B-32", images, HARD_TEXTS[:6], pretrained=weights)
    np.testing.assert_allclose(ours, from_images, atol=1e-5)
    np.testing.assert_allclose(embedder.embed_texts(HARD_TEXTS[:6]), from_texts, atol=1e-5)
    assert embedder.width == clip_width(settings) == 512
