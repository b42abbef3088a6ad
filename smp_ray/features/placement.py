"""Where the models run: decided from the cluster's own resources and the config, never from the driver's torch.

`colocated` gives every worker all the models; `spread` gives each model its own autoscaling actor pool. Before
anything starts, the minimum that a plan needs is checked against what the cluster has: Ray would wait in silence.
"""

import math
from dataclasses import dataclass, replace

from smp_ray.config import FeaturesConfig
from smp_ray.errors import ConfigError
from smp_ray.families.base import IMAGE
from smp_ray.families.registry import find

#: CPUs of a reading or writing task and of an actor that fetches pictures.
IO_CPUS = 0.25
#: CPUs of the cluster for each fetching actor; one fetches some hundred pictures a second.
_CPUS_PER_FETCHER = 8


@dataclass(frozen=True)
class Resources:
    """What a cluster has: logical CPUs and GPUs in all, and the physical cores behind the CPUs of this machine."""

    cpus: float
    gpus: float
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
    """A plan of a pass: its pools in order, and whether images are decoded by tasks of their own.

    `fetchers` is how many actors may fetch pictures over the network; 0 where all are files.
    """

    kind: str
    pools: tuple[Pool, ...]
    decode_cpus: float | None
    reason: str
    fetchers: int = 0

    def describe(self) -> str:
        """The plan and its reason, on one line for the user."""
        shown = []
        for pool in self.pools:
            least = "" if pool.min_actors == pool.max_actors else f"{pool.min_actors} to "
            actors = f"{least}{pool.max_actors} actor{'' if pool.max_actors == 1 else 's'}"
            gpus = f", {pool.num_gpus:g} GPU" if pool.num_gpus else ""
            shown.append(f"{'+'.join(pool.families)} on {actors} ({pool.num_cpus:g} CPU{gpus} each)")
        return f"placement {self.kind}: {', '.join(shown)}; {self.reason}"


def place(settings: FeaturesConfig, families: tuple[str, ...], resources: Resources, remote: bool = False) -> Placement:
    """Plan the actors of a pass that computes `families`, of pictures that may lie elsewhere (`remote`).

    Raises:
        ConfigError: the smallest form of the plan does not fit into the cluster.
    """
    models = sum(settings.section(family).num_gpus != 0 for family in families)
    if not models:
        resources = replace(resources, gpus=0.0)
    kind, reason = _choose(settings, models, resources)
    decodes = any(IMAGE in find(family).reads for family in families)
    fetchers = max(1, int(resources.cpus / _CPUS_PER_FETCHER)) if remote else 0
    # A fraction at the least, beside the fetchers, one reader and one writer.
    free = max(0.25, resources.cpus - (2 + fetchers) * IO_CPUS)
    cores = resources.cores or int(resources.cpus)
    threads: int | None = None
    decode_cpus: float | None = None
    if kind == "spread":
        share = free / (len(families) + decodes)
        each = max(1, cores // len(families))
        pools = tuple(_pool(settings, family, models, resources, share, each) for family in families)
        decode_cpus = _floor(min(1.0, share)) if decodes else None
    else:
        if resources.gpus:
            workers = settings.workers or max(1, int(resources.gpus))
            decode_cpus = _floor(min(1.0, free / 2)) if decodes else None
        else:
            # Decoding happens inside the workers: handing pixels between processes costs more than it gains on CPUs.
            workers = settings.workers or max(1, min(cores, int(free / 0.5)))
            threads = max(1, cores // workers)
        num_cpus = _floor(min(1.0, (free - (decode_cpus or 0)) / workers))
        num_gpus = _floor(min(1.0, resources.gpus / workers))
        least = workers if resources.cores else 1
        pools = (Pool(families, least, workers, num_cpus, num_gpus, threads),)
    placement = Placement(kind, pools, decode_cpus, reason, fetchers)
    _check_fits(placement, resources)
    return placement


def _choose(settings: FeaturesConfig, models: int, resources: Resources) -> tuple[str, str]:
    if settings.placement != "auto":
        return settings.placement, "as configured"
    if resources.gpus == 0:
        return "colocated", "auto: no GPU in the cluster, so every worker holds all the models and nothing is handed on"
    if resources.gpus < max(2, models):
        return "colocated", f"auto: {resources.gpus:g} GPU for {models} models, so they share it"
    return "spread", f"auto: {resources.gpus:g} GPUs for {models} models, so each scales by itself"


def _pool(settings: FeaturesConfig, family: str, models: int, resources: Resources, share: float, threads: int) -> Pool:
    """The pool of one family that has its share of the CPUs."""
    section = settings.section(family)
    num_gpus = section.num_gpus
    if num_gpus is None:
        # Whole GPUs where there is one for each model, else equal parts of one.
        num_gpus = _floor(min(1.0, resources.gpus / models))
    num_cpus = section.num_cpus or _floor(min(1.0, share / section.min_actors))
    fitting = int(resources.gpus / num_gpus if num_gpus else share / num_cpus)
    most = section.max_actors or max(section.min_actors, fitting)
    return Pool((family,), section.min_actors, most, num_cpus, num_gpus, None if num_gpus else threads)


def _check_fits(placement: Placement, resources: Resources) -> None:
    cpus = (2 + min(1, placement.fetchers)) * IO_CPUS + (placement.decode_cpus or 0)
    cpus += sum(pool.min_actors * pool.num_cpus for pool in placement.pools)
    gpus = sum(pool.min_actors * pool.num_gpus for pool in placement.pools)
    keys = ", ".join(f"features.{find(family).key()}" for pool in placement.pools for family in pool.families)
    cpu_help = "set ray.num_cpus (local) or lower num_cpus, min_actors or workers"
    for needs, has, unit, advice in (
        (gpus, resources.gpus, "GPUs", f"lower min_actors or num_gpus of {keys}"),
        (cpus, resources.cpus, "CPUs", cpu_help),
    ):
        if needs > has + 1e-6:
            raise ConfigError(
                f"features.placement: the plan needs at least {needs:g} {unit} and the cluster has {has:g}; {advice}"
            )


def _floor(value: float) -> float:
    """Down to the four decimals that Ray keeps, so that parts of a whole always fit into it."""
    return math.floor(value * 10_000 + 1e-9) / 10_000
