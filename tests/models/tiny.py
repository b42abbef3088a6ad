"""Tiny models of the published architectures, with random weights, read through the real loading code."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import XLMRobertaConfig

# Models this small only wait for a second thread, above all on a busy machine.
torch.set_num_threads(1)

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "flickr-photos"

#: Texts that have broken tokenizers before.
HARD_TEXTS = [
    "a", "Sunset over the harbour", "IMG_2034.JPG", "🎉🎉🎉", "👩‍👩‍👧‍👦 family",
    "مرحبا بالعالم", "שלום עולם", "日本の夏",
    "nul\x00byte", "a&amp;b <b>bold</b>",
    "é" * 300, "word " * 400, "x" * 2000, "line\nbreak\ttab", "#tag1 #tag2 @user http://example.org/?q=1",
]  # fmt: skip


def write_clip_folder(folder: Path, own_tokenizer: bool = False, kind: str = "clip", **preprocess: object) -> Path:
    """An open_clip `local-dir:` folder of about 2 M parameters, with open_clip's tokenizer or one of its own.

    `kind` is "clip", "coca" or "hf": the last has a text tower of transformers, and a tokenizer of its own.
    """
    import open_clip
    from safetensors.torch import save_file

    from jobs.bench.random_weights import write_random_language_model

    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    if own_tokenizer:
        write_random_language_model(folder, "tiny")
        for name in ("config.json", "generation_config.json", "model.safetensors"):
            (folder / name).unlink()
        text |= {"vocab_size": 2000, "hf_tokenizer_name": "gpt2", "tokenizer_kwargs": {"pad_token": "<|endoftext|>"}}
    model_cfg: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": text,
    }
    if kind == "coca":
        model_cfg["multimodal_cfg"] = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
        model_cfg["vision_cfg"] |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
        text |= {"embed_cls": True, "output_tokens": True}
    if kind == "hf":
        tower = XLMRobertaConfig(
            vocab_size=2000, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        )
        tower.save_pretrained(folder / "tower")
        own = {name: text[name] for name in ("hf_tokenizer_name", "tokenizer_kwargs", "context_length")}
        model_cfg["text_cfg"] = {"hf_model_name": str(folder / "tower"), "hf_proj_type": "mlp", **own}
    config = {
        "model_cfg": model_cfg | ({} if kind == "clip" else {"custom_text": True}),
        "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], **preprocess},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder


def pictures(count: int = 12, seed: int = 0) -> list[Image.Image]:
    """RGB pictures of varied size, shape and content."""
    generator = np.random.default_rng(seed)
    result = []
    for index in range(count):
        height, width = (int(side) for side in generator.integers(8, 200, 2))
        coarse = generator.integers(0, 256, (1 + index % 5, 1 + index % 4, 3), dtype=np.uint8)
        result.append(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return result


def photographs(count: int) -> list[bytes]:
    """Encoded real photographs; skips the test where they are not at hand."""
    if not (PHOTOS / "posts.csv").is_file():
        pytest.skip(f"needs the real photographs in {PHOTOS}, which are not part of the project")
    with (PHOTOS / "posts.csv").open(encoding="utf-8") as file:
        names = [row["image"] for row in csv.DictReader(file)]
    step = max(1, len(names) // count)
    paths = [PHOTOS / name if (PHOTOS / name).is_file() else PHOTOS / "images" / name for name in names[::step]]
    return [path.read_bytes() for path in paths[:count]]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The file that PIL makes of `image`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
