"""Where the models run: decided from the cluster's own resources and the config, never from the driver's torch.

`colocated` gives every worker all the models; `spread` gives each model its own autoscaling actor pool. Before
anything starts, the minimum that a plan needs is checked against what the cluster has: Ray would wait in silence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from smp_ray.config import FeaturesConfig
from smp_ray.errors import ConfigError
from smp_ray.families.base import IMAGE
from smp_ray.families.registry import find

#: CPUs of Ray's own checkpoint filter (fixed at one in Ray 2.60) and of our reading and writing tasks.
FILTER_CPUS = 1.0
IO_CPUS = 0.25


@dataclass(frozen=True)
class Resources:
    """What a cluster has: logical CPUs and GPUs in all, and the physical cores behind the CPUs of this machine."""

    cpus: float
    gpus: float
    nodes: int = 1
    #: Physical cores where the logical CPUs were declared by us (a local Ray), else None.
    cores: int | None = None


@dataclass(frozen=True)
class Pool:
    """A pool of identical actors: what runs in it, its size and what one actor takes."""

    families: tuple[str, ...]
    min_actors: int
    max_actors: int
    num_cpus: float
    num_gpus: float
    #: torch threads of one actor; None leaves torch's own choice (on a GPU).
    threads: int | None


@dataclass(frozen=True)
class Placement:
    """A plan of a pass: its pools in order, and whether images are decoded by tasks of their own."""

    kind: str
    pools: tuple[Pool, ...]
    decode_cpus: float | None
    reason: str

    def describe(self) -> str:
        """One line for the terminal."""
        pools = ", ".join(
            f"{'+'.join(pool.families)} on {_span(pool.min_actors, pool.max_actors)} "
            f"({pool.num_cpus:g} CPU{f', {pool.num_gpus:g} GPU' if pool.num_gpus else ''} each)"
            for pool in self.pools
        )
        return f"placement {self.kind}: {pools}; {self.reason}"


def place(settings: FeaturesConfig, families: tuple[str, ...], resources: Resources) -> Placement:
    """Plan the actors of a pass that computes `families`.

    Raises:
        ConfigError: the smallest form of the plan does not fit into the cluster.
    """
    if not _on_gpus(settings, families):
        resources = replace(resources, gpus=0.0)
    kind, reason = _choose(settings, families, resources)
    placement = (_colocated if kind == "colocated" else _spread)(settings, families, resources, reason)
    _check_fits(placement, resources)
    return placement


def _on_gpus(settings: FeaturesConfig, families: tuple[str, ...]) -> int:
    """How many of the families want a GPU; those without a model do not."""
    return sum(settings.section(family).num_gpus != 0 for family in families)


def _choose(settings: FeaturesConfig, families: tuple[str, ...], resources: Resources) -> tuple[str, str]:
    if settings.placement != "auto":
        return settings.placement, "as configured"
    if resources.gpus == 0:
        return "colocated", "auto: no GPU in the cluster, so every worker holds all the models and nothing is handed on"
    models = _on_gpus(settings, families)
    if resources.gpus < max(2, models):
        return "colocated", f"auto: {resources.gpus:g} GPU for {models} models, so they share it"
    return "spread", f"auto: {resources.gpus:g} GPUs for {models} models, so each scales by itself"


def _colocated(settings: FeaturesConfig, families: tuple[str, ...], resources: Resources, reason: str) -> Placement:
    on_gpu = resources.gpus > 0
    decodes = any(IMAGE in find(family).reads for family in families)
    if on_gpu:
        workers = settings.workers or max(1, int(resources.gpus))
        free = _free_cpus(resources)
        decode_cpus = _floor(min(1.0, free / 2)) if decodes else None
        num_gpus = min(1.0, resources.gpus / workers)
        num_cpus, threads = min(1.0, (free - (decode_cpus or 0)) / workers), None
    else:
        # Decoding happens inside the workers: handing pixels between processes costs more than it gains on CPUs.
        decode_cpus, num_gpus = None, 0.0
        cores = resources.cores or int(resources.cpus)
        workers = settings.workers or max(1, min(cores, int(_free_cpus(resources) / 0.5)))
        num_cpus = min(1.0, _free_cpus(resources) / workers)
        threads = max(1, cores // workers)
    pool = Pool(families, workers if resources.cores else 1, workers, _floor(num_cpus), _floor(num_gpus), threads)
    return Placement("colocated", (pool,), decode_cpus, reason)


def _spread(settings: FeaturesConfig, families: tuple[str, ...], resources: Resources, reason: str) -> Placement:
    decodes = any(IMAGE in find(family).reads for family in families)
    share = _free_cpus(resources) / (len(families) + (1 if decodes else 0))
    pools = []
    for family in families:
        model = settings.section(family)
        num_gpus = model.num_gpus
        if num_gpus is None:
            # Whole GPUs where there is one for each model, else equal parts of one.
            num_gpus = 0.0 if resources.gpus == 0 else _floor(min(1.0, resources.gpus / _on_gpus(settings, families)))
        num_cpus = model.num_cpus or _floor(min(1.0, share / model.min_actors))
        most = model.max_actors or max(model.min_actors, _most(num_gpus, num_cpus, share, resources))
        cores = resources.cores or int(resources.cpus)
        threads = None if num_gpus else max(1, cores // len(families))
        pools.append(Pool((family,), model.min_actors, most, num_cpus, num_gpus, threads))
    decode_cpus = _floor(min(1.0, share)) if decodes else None
    return Placement("spread", tuple(pools), decode_cpus, reason)


def _most(num_gpus: float, num_cpus: float, share: float, resources: Resources) -> int:
    if num_gpus:
        return max(1, int(resources.gpus / num_gpus))
    return max(1, int(share / num_cpus))


def _free_cpus(resources: Resources) -> float:
    """CPUs left for models and decoding beside Ray's filter, one reader and one writer; a fraction at the least."""
    return max(0.25, resources.cpus - FILTER_CPUS - 2 * IO_CPUS)


def _check_fits(placement: Placement, resources: Resources) -> None:
    cpus = FILTER_CPUS + 2 * IO_CPUS + (placement.decode_cpus or 0)
    cpus += sum(pool.min_actors * pool.num_cpus for pool in placement.pools)
    gpus = sum(pool.min_actors * pool.num_gpus for pool in placement.pools)
    if gpus > resources.gpus + 1e-6:
        raise ConfigError(
            f"features.placement: the plan needs at least {gpus:g} GPUs and the cluster has {resources.gpus:g}; "
            f"lower min_actors or num_gpus of {_keys(placement)}"
        )
    if cpus > resources.cpus + 1e-6:
        raise ConfigError(
            f"features.placement: the plan needs at least {cpus:g} CPUs (1 of them for Ray's checkpoint filter) and "
            f"the cluster has {resources.cpus:g}; set ray.num_cpus (local) or lower num_cpus, min_actors or workers"
        )


def _keys(placement: Placement) -> str:
    return ", ".join(f"features.{find(family).key()}" for pool in placement.pools for family in pool.families)


def _floor(value: float) -> float:
    """Down to the four decimals that Ray keeps, so that parts of a whole always fit into it."""
    return math.floor(value * 10_000 + 1e-9) / 10_000


def _span(least: int, most: int) -> str:
    count = f"{least}" if least == most else f"{least} to {most}"
    return f"{count} actor{'' if most == 1 else 's'}"
