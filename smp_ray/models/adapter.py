"""CLIP-Adapters with a regression head, K of them in one batched module (one for each fold, trained at once).

An adapter is the bottleneck of Gao et al., "CLIP-Adapter" (arXiv 2110.04544): a(x) = ReLU(ReLU(x W1) W2), and the
adapted embedding is the normalised mixture r a(x) + (1 - r) x. Each of the K has one for the image and one for the
title, and a head that predicts popularity from both. Every parameter has K as its leading dimension.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn

from smp_ray.models.tensors import metadata_of

#: Key of the shape in the metadata of a safetensors file.
METADATA = "smp_ray.adapters"
#: Posts that trained adapters see at once: all of them see a post of no fold, which takes memory for each.
APPLIED = 2048


@dataclass(frozen=True)
class BankShape:
    """What a bank is made of: K `adapters`, of which the first `folds` are averaged for posts that belong to no fold.

    `width` is that of the CLIP embeddings, a ratio the share of the adapter's output in the adapted embedding; a
    `head_width` of 0 is a linear head.
    """

    adapters: int
    folds: int
    width: int
    image_bottleneck: int
    title_bottleneck: int
    image_ratio: float
    title_ratio: float
    head_width: int


class Adapted(NamedTuple):
    """What adapters make of B posts: embeddings (…, B, W), unit norm, zero where missing, and popularity (…, B)."""

    image: Tensor
    title: Tensor
    prediction: Tensor


class ModalityAdapter(nn.Module):
    """K bottleneck adapters for one kind of embedding, without biases as published."""

    def __init__(self, adapters: int, width: int, bottleneck: int, ratio: float, generator: torch.Generator) -> None:
        super().__init__()
        self.ratio = ratio
        self.down = _weights(adapters, width, bottleneck, generator)
        self.up = _weights(adapters, bottleneck, width, generator)

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, W) → (K, B, W) of unit norm."""
        hidden = torch.relu(torch.einsum("bw,kwh->kbh", embedding, self.down))
        adapted = torch.relu(torch.bmm(hidden, self.up))
        return unit(self.ratio * adapted + (1 - self.ratio) * embedding)


class AdapterBank(nn.Module):
    """K adapters of both modalities, their heads, and the mean and deviation of each one's training labels.

    The initial weights are drawn from `seed` and the same for all K: adapters that start together stay comparable, so
    that a feature means the same whichever fold's adapter made it, and their mean is meaningful. `dropout` acts, while
    training, on what goes into the head's last layer.
    """

    label_mean: Tensor
    label_std: Tensor

    def __init__(self, shape: BankShape, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.dropout = dropout
        generator = torch.Generator().manual_seed(seed)
        k = shape.adapters
        self.image = ModalityAdapter(k, shape.width, shape.image_bottleneck, shape.image_ratio, generator)
        self.title = ModalityAdapter(k, shape.width, shape.title_bottleneck, shape.title_ratio, generator)
        inputs = 3 * shape.width + 2  # both embeddings, their product, and a flag for the presence of each
        if shape.head_width:
            self.head = _weights(k, inputs, shape.head_width, generator)
            self.head_bias = nn.Parameter(torch.zeros(k, shape.head_width))
        self.last = _weights(k, shape.head_width or inputs, 1, generator)
        self.last_bias = nn.Parameter(torch.zeros(k))
        self.register_buffer("label_mean", torch.zeros(k))
        self.register_buffer("label_std", torch.ones(k))

    def forward(self, image: Tensor, title: Tensor, has_image: Tensor, has_title: Tensor) -> Adapted:
        """All adapters over one batch: embeddings, float32 (B, W), zero where missing, and float32 (B,) 1 where not.

        Predictions (K, B) are in standard deviations of each adapter's own training labels, from their mean.
        """
        adapted_image, adapted_title = self.image(image), self.title(title)
        # Coordinates of a unit vector are about 1 / sqrt(width) and their products 1 / width, too small beside the
        # flags for any one learning rate; so scaled, all are about 1 whatever the width.
        scale = math.sqrt(self.shape.width)
        x, y = adapted_image * scale, adapted_title * scale
        flags = torch.stack([has_image, has_title], dim=1).expand(self.shape.adapters, -1, -1)
        hidden = torch.cat([x, y, x * y, flags], dim=2)
        if self.shape.head_width:
            hidden = F.gelu(torch.baddbmm(self.head_bias[:, None], hidden, self.head))
        # One mask for all adapters, so that none can tell which others are trained beside it.
        if self.training and self.dropout:
            hidden = hidden * F.dropout(hidden.new_ones(hidden.shape[1:]), self.dropout)
        prediction = torch.bmm(hidden, self.last)[:, :, 0] + self.last_bias[:, None]
        return Adapted(adapted_image, adapted_title, prediction)

    @torch.inference_mode()
    def apply_to(self, adapter: Tensor, image: Tensor, title: Tensor, has_image: Tensor, has_title: Tensor) -> Adapted:
        """What each post's own adapter makes of it, predictions in the unit of the labels; inputs as in `forward`.

        `adapter`, int64 (B,), says which adapter; -1 is the mean over the folds' adapters: of the adapted embeddings
        (normalised again) and of the predictions. A prediction says nothing where both embeddings are missing.
        """
        found = Adapted(torch.zeros_like(image), torch.zeros_like(title), image.new_zeros(len(image)))
        for number in adapter.unique().tolist():
            bank = self._only(list(range(self.shape.folds)) if number < 0 else [number])
            for rows in torch.nonzero(adapter == number)[:, 0].split(APPLIED):
                out = bank(image[rows], title[rows], has_image[rows], has_title[rows])
                found.image[rows] = unit(out.image.mean(dim=0))
                found.title[rows] = unit(out.title.mean(dim=0))
                popularity = out.prediction * bank.label_std[:, None] + bank.label_mean[:, None]
                found.prediction[rows] = popularity.mean(dim=0)
        return found

    def _only(self, adapters: list[int]) -> AdapterBank:
        bank = AdapterBank(replace(self.shape, adapters=len(adapters)))
        bank.load_state_dict({name: value[adapters] for name, value in self.state_dict().items()})
        return bank.eval()

    def to_bytes(self) -> bytes:
        """The bank as a safetensors file that holds its own shape."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        return bytes(save(tensors, {METADATA: json.dumps(asdict(self.shape))}))

    @classmethod
    def from_bytes(cls, data: bytes) -> AdapterBank:
        """The inverse of `to_bytes`."""
        bank = cls(BankShape(**json.loads(metadata_of(data)[METADATA])))
        bank.load_state_dict(load(data))
        return bank


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., W) scaled to unit norm; a zero vector (a missing embedding) stays zero."""
    return F.normalize(vectors, dim=-1, eps=1e-6)


def _weights(adapters: int, inputs: int, outputs: int, generator: torch.Generator) -> nn.Parameter:
    """The initial weights of a linear layer as in `nn.Linear`, repeated for all adapters: (K, inputs, outputs)."""
    bound = 1 / math.sqrt(inputs)
    drawn = torch.rand(inputs, outputs, generator=generator) * 2 * bound - bound
    return nn.Parameter(drawn.expand(adapters, -1, -1).clone())
