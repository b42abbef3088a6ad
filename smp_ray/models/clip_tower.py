"""Exact shortcuts for CLIP's transformers: what the embedding does not depend on is not computed.

Images: a tower that is pooled at its class token throws the other tokens' outputs of its last block away, and nothing
follows that would mix them in. There only keys and values need all tokens; query, attention output and MLP need one.
For ViT-B-32 that saves 10/12 of one block of twelve, 7 % of all multiplications, and changes nothing but rounding.

Texts: where no token sees a later one and the embedding is that of the end token, nothing after it counts. A title of
ten tokens need not be computed at the full 77.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class ClassTokenBlock(nn.Module):
    """A residual attention block of open_clip that computes its output for the first token only."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(n, tokens, width) → (n, 1, width)."""
        block = self.block
        normed = block.ln_1(tokens)
        attended = block.attn(normed[:, :1], normed, normed, need_weights=False, attn_mask=attn_mask)[0]
        first = tokens[:, :1] + block.ls_1(attended)
        return first + block.ls_2(block.mlp(block.ln_2(first)))


def shorten_last_block(visual: Any) -> bool:
    """Put `ClassTokenBlock` in place of the last block, where the tower is one that allows it.

    Returns:
        Whether it was; other architectures (ResNets, timm towers, average or attention pooling) are left as they are.
    """
    from open_clip.transformer import ResidualAttentionBlock, Transformer, VisionTransformer

    allowed = (
        type(visual) is VisionTransformer
        and type(visual.transformer) is Transformer
        and visual.transformer.batch_first
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and not visual.output_tokens
    )
    if not allowed:
        return False
    last = visual.transformer.resblocks[-1]
    if type(last) is not ResidualAttentionBlock or type(last.attn) is not nn.MultiheadAttention:
        return False
    visual.transformer.resblocks[-1] = ClassTokenBlock(last)
    return True


class CutText:
    """The embedding of texts by a causal tower that is pooled at one token of each, and stops there."""

    def __init__(self, tower: Any, pool_type: str, end: int) -> None:
        self._tower, self._pool_type, self._end = tower, pool_type, end

    @classmethod
    def of(cls, model: Any) -> CutText | None:
        """That of an open_clip model, or None where its text tower is not one that allows it."""
        from open_clip import CLIP, CustomTextCLIP
        from open_clip.transformer import TextTransformer

        if type(model) is CLIP:
            tower, pool_type, end = model, model.text_pool_type, model.text_eos_id
        elif type(model) is CustomTextCLIP and type(model.text) is TextTransformer:
            tower, pool_type, end = model.text, model.text.pool_type, model.text.eos_id
            if tower.cls_emb is not None or tower.output_tokens:
                return None
        else:
            return None
        mask = tower.attn_mask
        causal = mask is not None and torch.isneginf(mask).equal(torch.ones_like(mask, dtype=torch.bool).triu(1))
        return cls(tower, pool_type, end) if causal and pool_type in ("argmax", "eos") else None

    def lengths(self, tokens: torch.Tensor) -> torch.Tensor:
        """How many of each text's tokens, int64 (n, context), its embedding depends on: (n,)."""
        ends = tokens if self._pool_type == "argmax" else (tokens == self._end).int()
        return ends.argmax(dim=-1) + 1

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """As the model's `encode_text`, of tokens (n, any length) cut no shorter than `lengths` says."""
        tower, length = self._tower, tokens.shape[1]
        dtype = tower.transformer.get_cast_dtype()
        x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        pooled = tower.ln_final(x[torch.arange(len(x), device=x.device), self.lengths(tokens) - 1])
        if isinstance(tower.text_projection, nn.Linear):
            return tower.text_projection(pooled)
        return pooled if tower.text_projection is None else pooled @ tower.text_projection
