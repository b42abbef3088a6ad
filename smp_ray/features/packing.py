"""Putting actors on nodes, one by one: a plan is what fits node by node and GPU by GPU, never by totals."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from smp_ray.resources import Node

_TINY = 1e-6


@dataclass(frozen=True)
class Need:
    """What one actor takes: CPUs, GPUs (a part of one, or whole ones), memory, and the kind of the GPUs ("": any)."""

    cpus: float
    gpus: float = 0.0
    memory_gb: float = 0.0
    gpu: str = ""

    def describe(self) -> str:
        """As "1 CPU, 0.5 GPU"."""
        parts = [f"{self.cpus:g} CPU"]
        if self.gpus:
            parts.append(f"{self.gpus:g} GPU {self.gpu}".rstrip())
        if self.memory_gb:
            parts.append(f"{self.memory_gb:g} GB")
        return ", ".join(parts)

    @property
    def options(self) -> dict[str, Any]:
        """As an actor of Ray is given it."""
        found = {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory_gb * 1e9}
        kind = {"accelerator_type": self.gpu} if self.gpu else {}
        return {**{name: value for name, value in found.items() if value}, **kind}

    @property
    def bundle(self) -> dict[str, float]:
        """As the autoscaler is asked for it."""
        memory = {"memory": self.memory_gb * 1e9} if self.memory_gb else {}
        kind = {f"accelerator_type:{self.gpu}": 0.001} if self.gpu else {}
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {}), **memory, **kind}


@dataclass
class Room:
    """What is left of a node."""

    node: Node
    cpus: float = field(init=False)
    memory_gb: float = field(init=False)
    gpus: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.cpus, self.memory_gb, self.gpus = self.node.cpus, self.node.memory_gb, [1.0] * self.node.gpus

    def take(self, need: Need) -> bool:
        """Put one actor here, if it fits: a part of a GPU where least is left of one, whole GPUs where nobody is."""
        if need.cpus > self.cpus + _TINY or need.memory_gb > self.memory_gb + _TINY:
            return False
        if need.gpus:
            if need.gpu not in ("", self.node.gpu):
                return False
            each, count = (need.gpus, 1) if need.gpus < 1 else (1.0, int(need.gpus))
            order = sorted(range(len(self.gpus)), key=self.gpus.__getitem__)
            fitting = [device for device in order if each <= self.gpus[device] + _TINY][:count]
            if len(fitting) < count:
                return False
            for device in fitting:
                self.gpus[device] -= each
        self.cpus -= need.cpus
        self.memory_gb -= need.memory_gb
        return True


@dataclass
class Crew:
    """Equal actors that are being put on nodes.

    Attributes:
        least, most: how many there must and may be.
        seconds: that one of them takes for a post; 0 for who is not to be made more.
        where: how many are on which node.
    """

    name: str
    need: Need
    least: int = 1
    most: float = math.inf
    seconds: float = 0.0
    where: Counter[int] = field(default_factory=Counter)
    _next: int = 0

    @property
    def size(self) -> int:
        """How many there are."""
        return self.where.total()

    @property
    def rate(self) -> float:
        """Posts a second, by the rough cost."""
        return self.size / self.seconds if self.seconds else math.inf

    def grow(self, rooms: Sequence[Room], order: Sequence[int]) -> bool:
        """One more, on the first node of the `order` that has room; what was full once stays full."""
        while self._next < len(order):
            node = order[self._next]
            if rooms[node].take(self.need):
                self.where[node] += 1
                return True
            self._next += 1
        return False


def pack(nodes: Sequence[Node], crews: Sequence[Crew]) -> Crew | None:
    """Put all crews on nodes: the least of each, then more of whoever is slowest, as long as it helps.

    Actors without a GPU go to nodes without one first, as Ray sends them.

    Returns:
        A crew of which not even the least fits, None where all do.
    """
    rooms = [Room(node) for node in nodes]
    anywhere = sorted(range(len(nodes)), key=lambda number: nodes[number].gpus > 0)
    with_gpu = [number for number in anywhere if nodes[number].gpus]
    orders = {id(crew): with_gpu if crew.need.gpus else anywhere for crew in crews}
    for crew in sorted(crews, key=lambda crew: (crew.need.gpus, crew.need.cpus, crew.need.memory_gb), reverse=True):
        for _ in range(crew.least):
            if not crew.grow(rooms, orders[id(crew)]):
                return crew
    growing = [crew for crew in crews if crew.seconds]
    while growing:
        crew = min(growing, key=lambda crew: crew.rate)
        bottleneck = min(other.rate for other in crews)
        # Beside a slower crew that cannot grow, more actors on CPUs alone would only wait, and leave none to decode.
        if (
            (not crew.need.gpus and crew.rate > bottleneck)
            or crew.size >= crew.most
            or not crew.grow(rooms, orders[id(crew)])
        ):
            growing.remove(crew)
    return None
