"""The dtypes that families take on a GPU, run on the CPU: every model works in them and stays close to float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jobs.bench.random_weights import write_random_captioner, write_random_language_model
from smp_ray.families.caption import CaptionSettings
from smp_ray.families.clip import ClipSettings
from smp_ray.families.perplexity import PerplexitySettings
from smp_ray.models.captioner import Captioner, CaptionTransform
from smp_ray.models.clip_embedder import ClipEmbedder, ClipTransform
from smp_ray.models.language_model import PerplexityScorer
from smp_ray.models.loading import prepare
from tests.models import tiny_captioners
from tests.models.tiny import HARD_TEXTS, pictures, write_clip_folder

HALVES = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


@HALVES
@pytest.mark.parametrize("kind", ["clip", "coca", "hf"])
def test_clip(tmp_path, kind, dtype):
    folder = str(write_clip_folder(tmp_path, own_tokenizer=kind == "hf", kind=kind))
    pixels = np.stack([ClipTransform(ClipSettings(model=folder)).pixels(image) for image in pictures(4)])
    exact = ClipEmbedder(ClipSettings(model=folder), device="cpu")
    half = ClipEmbedder(ClipSettings(model=folder, dtype=dtype), device="cpu")
    for left, right in ((exact.embed_images(pixels), half.embed_images(pixels)),
                        (exact.embed_texts(HARD_TEXTS), half.embed_texts(HARD_TEXTS))):  # fmt: skip
        assert right.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(right, axis=1), 1, atol=1e-6)
        assert (left * right).sum(axis=1).min() > 0.99


@HALVES
def test_perplexity(tmp_path, dtype):
    folder = str(write_random_language_model(tmp_path, "tiny"))
    exact = PerplexityScorer(PerplexitySettings(model=folder), device="cpu").score(HARD_TEXTS)
    half = PerplexityScorer(PerplexitySettings(model=folder, dtype=dtype), device="cpu").score(HARD_TEXTS)
    np.testing.assert_allclose(half[0], exact[0], rtol=0.05)
    np.testing.assert_array_equal(half[1], exact[1])


@HALVES
@pytest.mark.parametrize("kind", ["blip", "blip2-opt", "instructblip-t5", "git"])
def test_captioner(tmp_path, kind, dtype):
    folder = write_random_captioner(tmp_path, "tiny") if kind == "blip" else tiny_captioners.write(kind, tmp_path)
    settings = CaptionSettings(model=str(folder), dtype=dtype, prompt="a photo of", max_new_tokens=4)
    pixels = np.stack([CaptionTransform(settings).pixels(image) for image in pictures(2)])
    assert len(Captioner(settings, device="cpu").caption(pixels)) == 2


def test_float32_is_whole_in_convolutions_too():
    torch.backends.cudnn.allow_tf32 = True
    prepare("float32", "cpu", None)
    assert not torch.backends.cudnn.allow_tf32


def test_device_and_dtype_of_a_process():
    assert prepare("auto", "cpu", None) == (torch.device("cpu"), torch.float32)
    assert prepare("bfloat16", "cpu", None)[1] == torch.bfloat16
    assert prepare("auto", None, None)[0].type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_the_cpu_gives(tmp_path):
    clip, language = str(write_clip_folder(tmp_path / "clip")), write_random_language_model(tmp_path / "gpt2", "tiny")
    pixels = np.stack([ClipTransform(ClipSettings(model=clip)).pixels(image) for image in pictures(4)])
    settings = ClipSettings(model=clip, dtype="float32")
    on_cpu, on_gpu = (ClipEmbedder(settings, device=device).embed_images(pixels) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)
    scores = [PerplexityScorer(PerplexitySettings(model=str(language)), device=device) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(scores[1].score(HARD_TEXTS)[0], scores[0].score(HARD_TEXTS)[0], rtol=1e-4)
    captioner = CaptionSettings(model=str(write_random_captioner(tmp_path / "blip", "tiny")), dtype="float32")
    small = np.stack([CaptionTransform(captioner).pixels(image) for image in pictures(4)])
    assert Captioner(captioner, device="cuda").caption(small) == Captioner(captioner, device="cpu").caption(small)
