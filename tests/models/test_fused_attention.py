"""BLIP's tower with fused attention: the same numbers, in place of each attention of the tower and of no other."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText

from jobs.bench.random_weights import write_random_captioner
from smp_ray.models.fused_attention import FusedAttention, fuse_attention
from tests.models import tiny_captioners


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tower_gives_the_same(tmp_path, dtype):
    folder = write_random_captioner(tmp_path, "tiny")
    plain, fused = (AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval() for _ in range(2))
    layers = len(fused.vision_model.encoder.layers)
    assert fuse_attention(fused) == layers > 0
    assert all(type(layer.self_attn) is FusedAttention for layer in fused.vision_model.encoder.layers)
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.inference_mode():
        expected, found = (model.vision_model(pixels).last_hidden_state.float() for model in (plain, fused))
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < (1e-5 if dtype == torch.float32 else 0.1) * expected.abs().max()
    # Other pictures, other numbers: the comparison could have failed.
    assert (expected[0] - expected[1]).abs().max() > 0.1


def test_other_captioners_are_left_as_they_are(tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(tiny_captioners.write("blip2-opt", tmp_path))
    assert fuse_attention(model) == 0
