"""The shortcut in the last block changes nothing but rounding, and is not taken where it would be wrong."""

from __future__ import annotations

import open_clip
import pytest
import torch

from smp_ray.models.clip_tower import ClassTokenBlock, CutText, shorten_last_block


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


def texts(custom: bool, **text: object) -> torch.nn.Module:
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 1, "head_width": 16}
    config = {"context_length": 12, "vocab_size": 64, "width": 32, "heads": 2, "layers": 3, **text}
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    model: torch.nn.Module = kind(embed_dim=24, vision_cfg=vision, text_cfg=config).eval()
    return model


@torch.inference_mode()
@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("text", [{}, {"pool_type": "eos", "eos_id": 63}, {"proj_bias": True}])
def test_a_cut_text_has_the_same_embedding(custom: bool, text: dict[str, object]) -> None:
    model = texts(custom, **text)
    tokens = torch.zeros(3, 12, dtype=torch.long)
    for row, length in enumerate([2, 7, 12]):
        tokens[row, :length] = torch.randint(1, 63, (length,))
        tokens[row, length - 1] = 63
    cut = CutText.of(model)
    assert cut is not None
    assert cut.lengths(tokens).tolist() == [2, 7, 12]
    expected = model.encode_text(tokens)
    torch.testing.assert_close(cut(tokens), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(cut(tokens[:2, :7]), expected[:2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", [{"pool_type": "last"}, {"pool_type": "first"}, {"no_causal_mask": True}])
def test_other_text_towers_are_not_cut(text: dict[str, object]) -> None:
    assert CutText.of(texts(custom=True, **text)) is None
    assert CutText.of(texts(custom=True, embed_cls=True)) is None
