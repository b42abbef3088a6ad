"""Moving data to the device that a model runs on, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def onto(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on the device; to a GPU through pinned memory, so that the host goes on while it is copied."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def collected(parts: Sequence[torch.Tensor]) -> np.ndarray:
    """What forward passes gave, one below the other; a GPU is waited for once and not after each."""
    import torch

    return torch.cat([part.to(parts[-1].device) for part in parts]).cpu().numpy()
