"""The shortcut in the last block changes nothing but rounding, and is not taken where it would be wrong."""

from __future__ import annotations

import open_clip
import pytest
import torch

from smp_ray.models.clip_tower import ClassTokenBlock, shorten_last_block


def tower(**vision: object) -> torch.nn.Module:
    torch.manual_seed(0)
    config = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 16, **vision}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    visual: torch.nn.Module = open_clip.CLIP(embed_dim=24, vision_cfg=config, text_cfg=text).visual.eval()
    return visual


@torch.inference_mode()
@pytest.mark.parametrize("vision", [{}, {"ls_init_value": 0.5}, {"final_ln_after_pool": True}])
def test_the_same_embedding(vision: dict[str, object]) -> None:
    visual = tower(**vision)
    images = torch.randn(5, 3, 32, 32)
    expected = visual(images)
    assert shorten_last_block(visual)
    assert isinstance(visual.transformer.resblocks[-1], ClassTokenBlock)
    torch.testing.assert_close(visual(images), expected, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("vision", [{"pool_type": "avg"}, {"attentional_pool": True}, {"layers": [1, 1, 1, 1]}])
def test_other_towers_are_left_alone(vision: dict[str, object]) -> None:
    visual = tower(**vision)
    images = torch.randn(2, 3, 32, 32)
    expected = visual(images)
    assert not shorten_last_block(visual)
    assert torch.equal(visual(images), expected)
