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


#: What CUDA itself takes of a GPU for each process, roughly: not measured.
_CONTEXT = 5e8


def keep_to(share: float) -> None:
    """Let this process take no more of its GPU than its share, so that the others on it find theirs."""
    import torch

    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(max(share - _CONTEXT / total, share / 2))


def is_full(error: BaseException) -> bool:
    """Whether an error says that a GPU's memory is full, in the words of torch, CUDA or one of its libraries."""
    said = str(error).lower()
    kind = type(error).__name__
    return kind == "OutOfMemoryError" or (
        kind in ("AcceleratorError", "RuntimeError") and ("out of memory" in said or "alloc_failed" in said)
    )


def give_back() -> None:
    """Give back what torch keeps of a GPU's memory for later."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def collected(parts: Sequence[torch.Tensor]) -> np.ndarray:
    """What forward passes gave, one below the other; a GPU is waited for once and not after each."""
    import torch

    return torch.cat([part.to(parts[-1].device) for part in parts]).cpu().numpy()
