"""The acceptance figures of the sample world's small models, on fresh scenes and titles of the "evaluate" stream.

The models are loaded by the libraries' own calls from a folder, as published ones are.
"""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from smp_ray.demo.scenes import PLACES, Scene, draw_scene, render, stream_of, stream_rng
from smp_ray.demo.titles import draw_title, gibberish

THRESHOLDS: dict[str, float] = {
    "caption_exact": 0.7,
    "caption_subject": 0.85,
    "caption_colour": 0.85,
    "caption_place": 0.85,
    "clip_recall_at_1": 0.8,
    "perplexity_auc": 0.95,
}
"""What the shipped models must reach at least."""

CANDIDATES = 100
"""Captions a picture's own is to be found among, all different."""


@torch.inference_mode()
def evaluate(models: Path, scenes: int = 500, seed: int = 0) -> dict[str, float]:
    """Shares (0 to 1), AUCs (0 to 1) and mean cosines (-1 to 1) of the models in `models` on `scenes` fresh scenes."""
    rng = stream_rng("figures", seed)
    drawn = [draw_scene(rng, "evaluate") for _ in range(scenes)]
    pictures = [_photograph(scene, rng) for scene in drawn]
    threads = torch.get_num_threads()
    # Thousands of tiny operations: more threads only wait for each other, for minutes where others use the cores too.
    torch.set_num_threads(1)
    try:
        figures = _caption_figures(models / "captioner", drawn, pictures)
        figures |= _clip_figures(models / "embedder", drawn, pictures, rng)
        figures |= _perplexity_figures(models / "language_model", drawn, rng)
    finally:
        torch.set_num_threads(threads)
    return {name: round(value, 4) for name, value in figures.items()}


def below_threshold(figures: dict[str, float]) -> list[str]:
    """One line for each figure that misses its threshold."""
    return [
        f"{name} is {figures[name]:.3f}, must be at least {least}"
        for name, least in THRESHOLDS.items()
        if not figures[name] >= least
    ]


def _photograph(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The scene's picture after JPEG, as a post's picture is."""
    buffer = io.BytesIO()
    render(scene, rng).save(buffer, "JPEG", quality=88)
    return Image.open(buffer).convert("RGB")


def _caption_figures(folder: Path, scenes: list[Scene], pictures: list[Image.Image]) -> dict[str, float]:
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    captions: list[str] = []
    for start in range(0, len(pictures), 50):
        inputs = processor(images=pictures[start : start + 50], return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=20, num_beams=1, do_sample=False)
        captions += [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
    pairs = list(zip(captions, scenes, strict=True))
    return {
        "caption_exact": _share(caption == scene.caption() for caption, scene in pairs),
        "caption_subject": _share(scene.subject in caption.split() for caption, scene in pairs),
        "caption_colour": _share(scene.colour in caption.split() for caption, scene in pairs),
        "caption_place": _share(caption.endswith(PLACES[scene.place]) for caption, scene in pairs),
    }


def _clip_figures(
    folder: Path, scenes: list[Scene], pictures: list[Image.Image], rng: np.random.Generator
) -> dict[str, float]:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()

    def embed(texts: list[str]) -> torch.Tensor:
        return F.normalize(model.encode_text(tokenizer(texts)), dim=-1)

    images = F.normalize(model.encode_image(torch.stack([transform(picture) for picture in pictures])), dim=-1)
    captions = [scene.caption() for scene in scenes]
    different = sorted(set(captions))
    embedded = dict(zip(different, embed(different), strict=True))
    own = torch.stack([embedded[caption] for caption in captions])
    found = []
    for image, caption in zip(images, captions, strict=True):
        others = [other for other in different if other != caption]
        chosen = [others[i] for i in rng.choice(len(others), min(CANDIDATES - 1, len(others)), replace=False)]
        found.append(bool(image @ embedded[caption] > (torch.stack([embedded[o] for o in chosen]) @ image).max()))
    figures = {"clip_recall_at_1": _share(found)}
    match = embed([draw_title(rng, "evaluate", scene, "describing").text for scene in scenes])
    wrong = embed([_off_topic(rng, scene) for scene in scenes])
    for name, anchors in (("title_caption", own), ("image_title", images)):
        close, far = (anchors * match).sum(1).numpy(), (anchors * wrong).sum(1).numpy()
        figures[f"cosine_{name}_describing"] = float(close.mean())
        figures[f"cosine_{name}_off_topic"] = float(far.mean())
        figures[f"cosine_{name}_auc"] = auc(close, far)
    return figures


def _off_topic(rng: np.random.Generator, scene: Scene) -> str:
    while True:
        title = draw_title(rng, "evaluate", scene, "off_topic")
        if title.mismatch == 1.0:
            return title.text


def _perplexity_figures(folder: Path, scenes: list[Scene], rng: np.random.Generator) -> dict[str, float]:
    """AUC of perplexity between describing titles and gibberish, and all low-quality and careful ones."""
    texts = {
        kind: [draw_title(rng, "evaluate", scene, kind).text for scene in scenes]
        for kind in ("describing", "low_quality", "careful")
    }
    texts["gibberish"] = [_fresh_gibberish(rng) for _ in scenes]
    measured = {kind: _perplexities(folder, titles) for kind, titles in texts.items()}
    return {
        "perplexity_auc": auc(measured["gibberish"], measured["describing"]),
        "perplexity_auc_low_quality": auc(measured["low_quality"], measured["describing"]),
        "perplexity_auc_careful": auc(measured["describing"], measured["careful"]),
        **{f"perplexity_median_{kind}": float(np.median(values)) for kind, values in measured.items()},
    }


def _fresh_gibberish(rng: np.random.Generator) -> str:
    while stream_of((text := gibberish(rng)).lower()) != "evaluate":
        pass
    return text


def _perplexities(folder: Path, texts: list[str]) -> NDArray[np.float64]:
    """Exp of the mean negative log likelihood of each text's tokens after the start token, shape (n,)."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    values = []
    for text in texts:
        tokens = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text).input_ids]])[:, : model.config.n_positions]
        values.append(float(model(tokens, labels=tokens).loss.exp()))
    return np.array(values)


def auc(high: NDArray[np.floating], low: NDArray[np.floating]) -> float:
    """Chance that a value of `high` exceeds one of `low`, ties counting one half (Mann-Whitney)."""
    difference = high[:, None] - low[None, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def _share(hits: Iterable[bool]) -> float:
    return float(np.mean(list(hits)))
