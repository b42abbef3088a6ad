"""How many inputs a model gets at once: what the config says, or, where that is `auto`, what is found on the way."""

import math
import statistics
import sys

from smp_ray.families.base import AUTO

#: Where the search begins, and where it ends at the latest, by kind of device.
LEAST, MOST = 8, {"cpu": 32, "cuda": 512}
#: Calls of each size of which the median counts, and the share of an input's time that twice as many must save.
CALLS, GAIN = 3, 0.05


def at_most(batch_size: int, device: str) -> int:
    """Inputs of a forward pass at most; `device` is "cpu" or "cuda"."""
    return MOST[device] if batch_size == AUTO else batch_size


class Pace:
    """Doubles the inputs of a call for as long as each takes less for it; what is computed meanwhile counts.

    Each worker finds its own size, anew in each pass: that takes a dozen calls.

    Attributes:
        size: inputs a call from now on.
    """

    def __init__(self, batch_size: int = sys.maxsize, device: str = "cpu") -> None:
        self._most = at_most(batch_size, device)
        self._open = batch_size == AUTO
        # Otherwise the model gets all, and makes batches of its size itself.
        self.size = LEAST if self._open else sys.maxsize
        self._best, self._took = math.inf, list[float]()

    def took(self, inputs: int, seconds: float) -> bool:
        """What a call took; whether the search ends with it."""
        if not self._open or inputs < self.size:
            return False
        self._took.append(seconds / inputs)
        if len(self._took) < CALLS:
            return False
        each, self._took = statistics.median(self._took), []
        if each > (1 - GAIN) * self._best:
            self.size //= 2
            self._open = False
        elif self.size == self._most:
            self._open = False
        else:
            self._best = each
            self.size *= 2
        return not self._open

    def too_many(self, inputs: int) -> None:
        """So many did not fit into the device's memory: half as many from now on."""
        self.size = max(1, min(inputs, self._most) // 2)
        self._open = False
