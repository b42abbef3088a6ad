"""Our captioner against plain transformers, one picture at a time."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from jobs.bench.random_weights import write_random_captioner
from smp_ray.errors import ModelError
from smp_ray.families.caption import CaptionSettings
from smp_ray.models.captioner import Captioner, CaptionTransform, normalised
from smp_ray.models.images import decode
from tests.models import tiny_captioners
from tests.models.tiny import photographs, pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_captioner(tmp_path_factory.mktemp("blip"), "tiny")


def ours(settings: CaptionSettings, images) -> list[str]:
    transform = CaptionTransform(settings)
    return Captioner(settings, device="cpu").caption(np.stack([transform.pixels(image) for image in images]))


def plain(folder, images, settings: CaptionSettings) -> list[str]:
    """The documented use of transformers, one picture at a time; the prompt is cut off as a text."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    captions = []
    for image in images:
        inputs = processor(images=image, text=settings.prompt, return_tensors="pt")
        with torch.no_grad():
            tokens = model.generate(
                **inputs, max_new_tokens=settings.max_new_tokens, num_beams=settings.num_beams, do_sample=False
            )
        text = processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
        captions.append(text.removeprefix(settings.prompt or "").strip())
    return captions


@pytest.mark.parametrize("prompt", [None, "a picture of"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_blip_equals_plain_transformers(folder, prompt, num_beams):
    settings = CaptionSettings(model=str(folder), prompt=prompt, num_beams=num_beams, batch_size=4, max_new_tokens=8)
    images = pictures(10)
    captions = ours(settings, images)
    assert captions == plain(folder, images, settings)
    assert len(set(captions)) > 2  # the pictures are told apart
    assert not any("picture of" in caption for caption in captions)


@pytest.mark.parametrize("kind", ["blip2-opt", "blip2-t5", "instructblip-opt", "instructblip-t5"])
@pytest.mark.parametrize("prompt", [None, "please give me a short description"])
def test_query_transformer_models_equal_plain_transformers(tmp_path, kind, prompt):
    folder = tiny_captioners.write(kind, tmp_path)
    settings = CaptionSettings(model=str(folder), prompt=prompt, batch_size=3, max_new_tokens=6)
    if prompt is None and kind.startswith("instructblip"):
        with pytest.raises(ModelError, match="set prompt"):
            Captioner(settings)
        return
    images = pictures(5)
    captions = ours(settings, images)
    assert captions == plain(folder, images, settings)
    assert all(captions)


@pytest.mark.parametrize("kind", ["git", "vision-encoder-decoder"])
def test_other_architectures_equal_plain_transformers(tmp_path, kind):
    folder = tiny_captioners.write(kind, tmp_path)
    settings = CaptionSettings(model=str(folder), batch_size=3, max_new_tokens=6)
    images = pictures(5)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor, tokenizer = AutoImageProcessor.from_pretrained(folder), tiny_captioners.tokenizer(folder)
    expected = []
    for image in images:
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        tokens = model.generate(pixel_values=pixels, max_new_tokens=6, do_sample=False, num_beams=1)
        expected.append(tokenizer.decode(tokens[0], skip_special_tokens=True).strip())
    assert ours(settings, images) == expected


def test_a_prompt_for_a_model_that_takes_none_is_refused(tmp_path):
    folder = tiny_captioners.write("vision-encoder-decoder", tmp_path)
    with pytest.raises(ModelError, match="takes no prompt"):
        Captioner(CaptionSettings(model=str(folder), prompt="describe"))


def test_git_continues_its_prompt(tmp_path):
    folder = tiny_captioners.write("git", tmp_path)
    images = pictures(4)
    with_prompt = ours(CaptionSettings(model=str(folder), prompt="a photo", max_new_tokens=6), images)
    assert with_prompt != ours(CaptionSettings(model=str(folder), max_new_tokens=6), images)
    assert not any(caption.startswith("a photo") for caption in with_prompt)


@pytest.mark.parametrize("changes", [
    {},
    {"size": {"height": 20, "width": 28}},
    {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
    {"resample": 2, "do_rescale": True, "do_normalize": False},
])  # fmt: skip
def test_pixels_equal_the_published_processor(folder, tmp_path, changes):
    for path in folder.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "processor_config.json").read_text())
    config["image_processor"] |= changes
    (tmp_path / "processor_config.json").write_text(json.dumps(config))
    transform = CaptionTransform(CaptionSettings(model=str(tmp_path)))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    for image in pictures(8):
        pixels = transform.pixels(image)
        assert pixels.dtype == transform.dtype == np.uint8
        assert pixels.shape == transform.shape
        expected = processor(image, return_tensors="pt")["pixel_values"]
        assert torch.equal(normalised(processor, pixels[None], torch.device("cpu")), expected)


def test_pictures_without_a_fixed_size_are_refused(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "processor_config.json").read_text())
    config["image_processor"]["size"] = {"shortest_edge": 32}
    (tmp_path / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="different sizes"):
        CaptionTransform(CaptionSettings(model=str(tmp_path)))


def test_caption_does_not_depend_on_the_batch(folder):
    settings = CaptionSettings(model=str(folder), batch_size=16, prompt="a photo of", max_new_tokens=6)
    transform, captioner = CaptionTransform(settings), Captioner(settings, device="cpu")
    pixels = np.stack([transform.pixels(image) for image in pictures(9)])
    together = captioner.caption(pixels)
    assert captioner.caption(pixels[::-1]) == together[::-1]
    assert [captioner.caption(pixels[row : row + 1])[0] for row in range(9)] == together
    assert captioner.caption(pixels[:0]) == []


def test_weights_of_another_architecture_are_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in weights.items() if "vision" in key}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"lack \d+ parameters"):
        Captioner(CaptionSettings(model=str(tmp_path)))


@pytest.mark.parametrize(("model", "words"), [
    ("./nowhere", "no model folder"),
    ("someone/some-model", "HF_HUB_OFFLINE"),
])  # fmt: skip
def test_wrong_settings_end_in_one_line(model, words):
    for use in (CaptionTransform, Captioner):
        with pytest.raises(ModelError, match=words) as caught:
            use(CaptionSettings(model=model))
        assert "\n" not in str(caught.value)


def test_a_language_model_is_no_captioner(tmp_path):
    from jobs.bench.random_weights import write_random_language_model

    folder = write_random_language_model(tmp_path, "tiny")
    with pytest.raises(ModelError):
        Captioner(CaptionSettings(model=str(folder)))


@pytest.mark.slow
def test_published_size_on_photographs(tmp_path):
    folder = write_random_captioner(tmp_path, "base")
    settings = CaptionSettings(model=str(folder), batch_size=3, max_new_tokens=5)
    images = [decode(data, 10**8) for data in photographs(3)]
    assert CaptionTransform(settings).shape == (384, 384, 3)
    assert ours(settings, images) == plain(folder, images, settings)
