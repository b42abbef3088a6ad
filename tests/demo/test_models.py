"""The shipped small models: real architectures, small, movable, and as good as the issue asks on fresh scenes.

It also tests `demo/training/schedule.py`, `demo/training/train_embedder.py`, `demo/training/train_language_model.py`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    GPT2LMHeadModel,
)
from transformers.models.blip.modeling_blip import BlipVisionModel

from smp_ray.demo import MODELS
from smp_ray.demo.evaluate import THRESHOLDS, auc, below_threshold, evaluate
from smp_ray.demo.training.train_captioner import copy_vision_tower

LIMIT = 16_000_000
"""Bytes all models may take together."""


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    return evaluate(MODELS, scenes=500, seed=0)


@pytest.mark.parametrize("name", THRESHOLDS)
def test_figure_reaches_its_threshold(figures: dict[str, float], name: str) -> None:
    assert figures[name] >= THRESHOLDS[name]


def test_titles_that_disagree_lie_far_from_caption_and_image(figures: dict[str, float]) -> None:
    for pair in ("title_caption", "image_title"):
        assert figures[f"cosine_{pair}_describing"] > figures[f"cosine_{pair}_off_topic"] + 0.3
        assert figures[f"cosine_{pair}_auc"] > 0.95


def test_perplexity_rises_as_text_quality_falls(figures: dict[str, float]) -> None:
    careful, plain, poor = (figures[f"perplexity_median_{kind}"] for kind in ("careful", "describing", "low_quality"))
    assert careful < plain < poor / 5


def test_figures_are_those_the_training_printed(figures: dict[str, float]) -> None:
    printed = json.loads((MODELS / "figures.json").read_text())["figures"]
    for name in THRESHOLDS:
        assert figures[name] == pytest.approx(printed[name], abs=0.02)


def test_a_figure_below_its_threshold_is_named() -> None:
    good = dict(THRESHOLDS)
    assert below_threshold(good) == []
    assert below_threshold({**good, "caption_exact": 0.4}) == ["caption_exact is 0.400, must be at least 0.7"]
    assert len(below_threshold({**good, "clip_recall_at_1": float("nan")})) == 1


def test_auc_counts_ties_one_half() -> None:
    assert auc(np.array([2.0, 3.0]), np.array([1.0, 0.0])) == 1.0
    assert auc(np.array([1.0]), np.array([1.0])) == 0.5
    assert auc(np.array([0.0]), np.array([1.0])) == 0.0


def test_models_are_small_and_name_no_machine() -> None:
    files = [file for file in MODELS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= LIMIT
    for file in files:
        if file.suffix != ".safetensors":
            text = file.read_text(encoding="utf-8")
            assert not [path for path in (str(Path.home()), str(Path.cwd()), "/tmp/") if path in text]


def test_models_load_from_a_copy_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "moved"
    shutil.copytree(MODELS, copy)
    monkeypatch.chdir(tmp_path)
    captioner = AutoModelForImageTextToText.from_pretrained(copy / "captioner")
    assert isinstance(captioner, BlipForConditionalGeneration)
    assert captioner.dtype == torch.float32
    assert AutoProcessor.from_pretrained(copy / "captioner").tokenizer.bos_token_id is not None
    scorer = AutoModelForCausalLM.from_pretrained(copy / "language_model")
    assert isinstance(scorer, GPT2LMHeadModel)
    assert scorer.dtype == torch.float32
    assert scorer.config.n_positions >= 256
    model, _, _ = open_clip.create_model_and_transforms("local-dir:moved/embedder")
    assert isinstance(model, open_clip.CLIP)
    tokens = open_clip.get_tokenizer("local-dir:moved/embedder")(["a red car in a city"])
    assert model.encode_text(tokens).shape == (1, 64)


@pytest.mark.parametrize("text", ["😂🔥❤️", "ñandú 東京 Ω", "", "a" * 2_000, "IMG_0412.JPG\n\t"])
def test_language_model_takes_any_text(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "language_model")
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.bos_token_id not in ids
    assert all(0 <= token < len(tokenizer) for token in ids)


def test_clip_text_does_not_depend_on_padding_or_length() -> None:
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{MODELS / 'embedder'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MODELS / 'embedder'}")
    tokens = tokenizer(["a red car in a city", "word " * 100])
    assert tokens.shape == (2, 32)
    # open_clip pools where the highest id stands: there must be exactly one end token, even after truncation.
    assert ((tokens == tokens.max()).sum(1) == 1).all()
    with torch.inference_mode():
        alone = model.encode_text(tokenizer(["a red car in a city"]))
        together = model.encode_text(tokens)[:1]
    assert torch.allclose(alone, together, rtol=1e-4, atol=1e-6)


def test_captioner_vision_tower_can_start_from_the_clip_one() -> None:
    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{MODELS / 'embedder'}")
    blip = BlipVisionModel(BlipConfig.from_pretrained(MODELS / "captioner").vision_config).eval()
    copy_vision_tower(clip.visual, blip)
    clip.eval()
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = blip(pixel_values=pixels).last_hidden_state
        pooled = tokens[:, 1:].mean(1) @ clip.visual.proj
        assert torch.allclose(pooled, clip.encode_image(pixels), rtol=1e-3, atol=1e-4)
