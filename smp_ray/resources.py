"""What a cluster has, node by node, and what it may grow to."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from smp_ray.config import NodeGroup
from smp_ray.errors import SmpRayError
from smp_ray.progress import say

#: Seconds between two looks at a cluster that grows, and between two lines that say for what it is waited.
_LOOK, _SAY = 2.0, 60.0
#: By this prefix Ray names the kind of a node's GPUs among its resources.
_KIND = "accelerator_type:"


@dataclass(frozen=True)
class Node:
    """What one node has.

    Attributes:
        cpus: logical ones, as Ray counts them.
        gpus: whole devices.
        memory_gb: for workers.
        gpu: kind of the devices, as Ray calls it; "" where it is not known.
        gpu_memory_gb: of one device; None where it is not known.
        cores: threads that compute at once; fewer than `cpus` where these were declared by us (a local Ray).
        price: of an hour; None where nobody said.
    """

    cpus: float
    gpus: int = 0
    memory_gb: float = math.inf
    gpu: str = ""
    gpu_memory_gb: float | None = None
    cores: int = 0
    price: float | None = None

    @property
    def threads(self) -> int:
        """Threads that compute at once."""
        return min(self.cores or int(self.cpus), int(self.cpus))

    def describe(self) -> str:
        """As "8 CPUs, 2 GPUs A100"."""
        gpus = f", {self.gpus} GPU{'s' * (self.gpus > 1)} {self.gpu}".rstrip() if self.gpus else ""
        return f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}{gpus}"


def described(nodes: Iterable[Node]) -> str:
    """Nodes in words, equal ones together."""
    counts = Counter(node.describe() for node in nodes)
    return "; ".join(f"{count} × {text}" if count > 1 else text for text, count in counts.items()) or "no nodes"


def live_nodes() -> tuple[Node, ...]:
    """The nodes of the cluster that this process is connected to."""
    import ray

    found = []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        has = node["Resources"]
        kinds = [name.removeprefix(_KIND) for name in has if name.startswith(_KIND)]
        gpus, memory = int(has.get("GPU", 0)), has.get("memory", 0.0) / 1e9
        found.append(Node(has.get("CPU", 0.0), gpus, memory, kinds[0] if kinds and gpus else ""))
    return tuple(found)


def nodes_of(groups: Iterable[NodeGroup]) -> tuple[Node, ...]:
    """All nodes of a cluster that is as large as it may get."""
    return tuple(
        Node(group.cpus, group.gpus, group.memory_gb or math.inf, group.gpu, group.gpu_memory_gb, price=group.price)
        for group in groups
        for _ in range(group.nodes)
    )


@contextmanager
def grown(
    bundles: Sequence[dict[str, float]], enough: Callable[[tuple[Node, ...]], bool], wait_s: float, what: str
) -> Iterator[None]:
    """Ask the autoscaler for nodes that hold all `bundles`, and wait until there are `enough`; ask no more at the end.

    Raises:
        SmpRayError: after `wait_s` seconds they are not enough.
    """
    from ray.autoscaler.sdk import request_resources

    try:
        began = said = time.monotonic()
        while True:
            # Before each look: Ray Data, once it has run on the cluster, asks every 20 s for what it needs itself, and
            # with that takes back what anybody else has asked for.
            request_resources(bundles=list(bundles))
            if enough(there := live_nodes()):
                break
            now = time.monotonic()
            if now - began > wait_s:
                raise SmpRayError(
                    f"after {wait_s:g} s (ray.wait_s) the cluster has {described(there)}, too little for {what}; see "
                    "its autoscaler's log, or say in ray.cluster what it can really grow to"
                )
            if now - said >= _SAY or said == began:
                said = now
                say(f"waiting for nodes, {now - began:.0f} s so far: {what}; the cluster has {described(there)}")
            time.sleep(_LOOK)
        yield
    finally:
        request_resources(bundles=[])
