"""What a plan of a pass is: pools of actors, what each takes, and where they go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from smp_ray.features.packing import Crew, Need, pack
from smp_ray.resources import Node

#: CPUs of a reading or writing task and of an actor that fetches pictures.
IO_CPUS = 0.25
#: CPUs of the cluster for each reading task: a process more costs more, on two cores, than it reads.
_CPUS_PER_READER = 4
#: Seconds on a core for decoding a picture: rough, to divide a cluster.
DECODE_SECONDS = 0.01


@dataclass(frozen=True)
class Pool:
    """A pool of identical actors.

    Attributes:
        actors: how many there are when all nodes are there.
        least: without how many the pass does not begin, or go on.
        where: (number of a node, actors on it).
        initial: how many there are at first.
        threads: torch threads of one actor; None leaves torch's own choice (on a GPU).
    """

    families: tuple[str, ...]
    actors: int
    least: int
    need: Need
    threads: int | None
    where: tuple[tuple[int, int], ...]
    initial: int


@dataclass(frozen=True)
class Placement:
    """A plan of a pass: its pools in order, and whether images are decoded by tasks of their own.

    Attributes:
        nodes: those that the plan is for; `Pool.where` counts them.
        fetchers: how many actors may fetch pictures over the network; 0 where all are files.
    """

    kind: str
    pools: tuple[Pool, ...]
    decode_cpus: float | None
    reason: str
    fetchers: int
    nodes: tuple[Node, ...]

    @property
    def actors(self) -> int:
        """How many there are at first, of all pools."""
        return sum(pool.initial for pool in self.pools)

    @property
    def readers(self) -> int:
        """How many tasks may read posts at the same time."""
        return max(1, int(sum(node.cpus for node in self.nodes) / _CPUS_PER_READER))

    @property
    def device(self) -> str:
        """Where the models run: "cpu", or the kind of GPU, "gpu" where Ray does not know it."""
        used = [number for pool in self.pools if pool.threads is None for number, _ in pool.where]
        return (self.nodes[used[0]].gpu or "gpu") if used else "cpu"

    def describe(self) -> str:
        """The plan and its reason, on one line for the user."""
        shown = []
        for pool in self.pools:
            actors = f"{pool.actors} actor{'' if pool.actors == 1 else 's'}"
            nodes = len(pool.where)
            on = f" on {nodes} node{'' if nodes == 1 else 's'}" if len(self.nodes) > 1 else ""
            shown.append(f"{'+'.join(pool.families)}: {actors}{on} ({pool.need.describe()} each)")
        return f"placement {self.kind}: {'; '.join(shown)}; {self.reason}"

    def beginning(self, nodes: Sequence[Node]) -> Placement | None:
        """The plan with as many actors at first as other nodes have room for; None: not even for the least."""
        # Growing evenly: each pool's size in proportion to the plan's.
        crews = [Crew("", pool.need, pool.least, pool.actors, seconds=pool.actors) for pool in self.pools]
        if pack(nodes, [*helpers(min(1, self.fetchers), self.decode_cpus), *crews]) is not None:
            return None
        pools = (replace(pool, initial=crew.size) for pool, crew in zip(self.pools, crews, strict=True))
        return replace(self, pools=tuple(pools))

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What it takes, as the autoscaler is asked for it; for more decoders than one Ray Data asks."""
        pools = [pool.need.bundle for pool in self.pools for _ in range(pool.actors)]
        helping = helpers(self.fetchers, self.decode_cpus)
        return [crew.need.bundle for crew in helping for _ in range(crew.least)] + pools


def helpers(fetchers: int, decode_cpus: float | None) -> list[Crew]:
    """What a pass takes besides its models: a reader, a writer, those that fetch, a decoder."""
    found = [Crew("reading and writing", Need(IO_CPUS), least=2 + fetchers)]
    if decode_cpus:
        found.append(Crew("decoding", Need(decode_cpus), seconds=DECODE_SECONDS))
    return found
