"""What forward passes gave is put together in their order; a shared GPU is shared, and known to be full."""

import pytest
import torch

from smp_ray.models.device import collected, is_full, keep_to, onto


def test_there_and_back() -> None:
    here = torch.device("cpu")
    parts = [onto(torch.full((2, 3), float(number)), here) for number in range(3)]
    assert collected(parts).tolist() == [[float(number)] * 3 for number in (0, 0, 1, 1, 2, 2)]


@pytest.mark.parametrize(("share", "kept"), [(0.5, 0.5 - 0.5 / 16), (0.04, 0.02)])
def test_those_that_share_a_gpu_leave_room_for_what_cuda_takes(
    monkeypatch: pytest.MonkeyPatch, share: float, kept: float
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(8e9), int(16e9)))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    keep_to(share)
    assert asked == [pytest.approx(kept)]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("shape '[2]' is invalid"), False), (ValueError("out of memory"), False),
    ],
)  # fmt: skip
def test_a_full_gpu_is_told_from_a_broken_one(error: Exception, full: bool) -> None:
    assert is_full(error) == full
