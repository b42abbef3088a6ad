"""How many workers train the adapters, and what Ray's nodes have room for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smp_ray.config import AdapterConfig
from smp_ray.errors import ConfigError

#: CPUs of a task that reads the input for a worker.
READ_CPUS = 0.25


@dataclass(frozen=True)
class Workers:
    """The workers of a training and what each takes."""

    count: int
    use_gpu: bool
    cpus: float

    @property
    def resources(self) -> dict[str, float]:
        """Of each, as Ray names them."""
        return {"CPU": self.cpus, **({"GPU": 1} if self.use_gpu else {})}

    def describe(self) -> str:
        """For the terminal."""
        each = f"{self.cpus:g} CPU{' and a GPU' if self.use_gpu else ''}"
        return f"1 worker with {each}" if self.count == 1 else f"{self.count} workers with {each} each"


def plan_workers(settings: AdapterConfig, nodes: list[dict[str, Any]]) -> Workers:
    """Decide from what the nodes of the running Ray have, as `ray.nodes()` says.

    Raises:
        ConfigError: the workers do not fit; Ray would wait for them in silence.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    cpus, gpus = (sum(node.get(kind, 0.0) for node in alive) for kind in ("CPU", "GPU"))
    use_gpu = gpus >= 1 if settings.use_gpu is None else settings.use_gpu
    workers = Workers(settings.workers or (max(1, int(gpus)) if use_gpu else 1), use_gpu, settings.cpus_per_worker)
    room = sum(
        min(int((node.get(kind, 0.0) + 1e-6) // each) for kind, each in workers.resources.items()) for node in alive
    )
    if room < workers.count or workers.count * workers.cpus + READ_CPUS > cpus + 1e-6:
        more = "set use_gpu to false" if use_gpu else "set ray.num_cpus (local)"
        raise ConfigError(
            f"training.adapter: {workers.describe()}, and {READ_CPUS:g} CPU to read, do not fit into a cluster of "
            f"{len(alive)} node{'' if len(alive) == 1 else 's'} with {cpus:g} CPUs and {gpus:g} GPUs in all; "
            f"lower training.adapter.workers or cpus_per_worker, or {more}"
        )
    return workers
