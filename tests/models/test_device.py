"""What forward passes gave is put together in their order."""

import torch

from smp_ray.models.device import collected, onto


def test_there_and_back() -> None:
    here = torch.device("cpu")
    parts = [onto(torch.full((2, 3), float(number)), here) for number in range(3)]
    assert collected(parts).tolist() == [[float(number)] * 3 for number in (0, 0, 1, 1, 2, 2)]
