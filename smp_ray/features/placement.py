"""Where the models run: decided from what the cluster has or may grow to, never from the driver's torch.

`colocated` gives every worker all the models; `spread` gives each model its own pool of actors, larger where a post
costs more. A plan fits node by node and GPU by GPU (`packing`), or is refused: Ray would wait in silence.
"""

import math
from collections.abc import Sequence

from smp_ray.config import FeaturesConfig
from smp_ray.errors import ConfigError
from smp_ray.families.base import IMAGE, FamilySettings
from smp_ray.families.registry import find
from smp_ray.features.packing import Crew, Need, pack
from smp_ray.features.pools import IO_CPUS, Placement, Pool, helpers
from smp_ray.resources import Node, described

#: CPUs of the cluster for each fetching actor; one fetches some hundred pictures a second.
_CPUS_PER_FETCHER = 8
#: Share of a cluster's CPUs that stays free for reading and writing.
_IO_SHARE = 1 / 16
#: How much faster than a core a GPU is: rough, to divide a cluster.
GPU_SPEED = 20.0
#: Actors that share a GPU at most.
_MOST_ON_A_GPU = 4


class _NoRoomError(Exception):
    """A plan that does not fit, in words."""


def place(settings: FeaturesConfig, families: Sequence[str], nodes: Sequence[Node], remote: bool = False) -> Placement:
    """Plan the actors of a pass that computes `families`.

    Args:
        settings: the section of the config.
        families: in the order in which they are computed.
        nodes: of the cluster, or those that it may grow to.
        remote: whether pictures are fetched over a network.

    Raises:
        ConfigError: the smallest form of the plan does not fit; the message has the nearest that does.
    """
    try:
        return _plan(settings, families, nodes, remote)
    except _NoRoomError as problem:
        hint = _nearest(settings, families, nodes, remote)
        raise ConfigError(f"features.placement: {problem}; the cluster has {described(nodes)}. {hint}") from None


def _nearest(settings: FeaturesConfig, families: Sequence[str], nodes: Sequence[Node], remote: bool) -> str:
    """What would fit: settings are given up one after the other, the least important first."""
    relaxed: dict[str, None] = {}
    for name in ("min_actors", "workers", "num_cpus", "memory_gb", "num_gpus", "gpu", "gpu_memory_gb", "placement"):
        keys = [f"{find(family).key()}." for family in families] if name in FamilySettings.model_fields else [""]
        for key in keys:
            section = getattr(settings, key[:-1]) if key else settings
            default = type(section).model_fields[name].default
            if getattr(section, name) != default:
                relaxed[f"features.{key}{name}"] = None
                update = section.model_copy(update={name: default})
                settings = settings.model_copy(update={key[:-1]: update}) if key else update
        if relaxed:
            try:
                plan = _plan(settings, families, nodes, remote)
            except _NoRoomError:
                continue
            return f"Without {', '.join(relaxed)} this would fit: {plan.describe()}"
    return (
        "No plan fits: give Ray more (locally ray.num_cpus), say in ray.cluster what it may grow to, or compute fewer "
        "families"
    )


def _plan(settings: FeaturesConfig, families: Sequence[str], nodes: Sequence[Node], remote: bool) -> Placement:
    nodes = tuple(nodes)
    accelerated = [family for family in families if settings.section(family).num_gpus != 0]
    kinds = {settings.section(family).gpu for family in accelerated}
    hosts = [node for node in nodes if node.gpus and node.cpus and (not all(kinds) or node.gpu in kinds)]
    if not accelerated:
        hosts = []
    kind, reason = _choose(settings, accelerated, hosts)
    decodes = any(IMAGE in find(family).reads for family in families)
    total = sum(node.cpus for node in nodes)
    fetchers = max(1, int(total / _CPUS_PER_FETCHER)) if remote else 0
    free = max(0.25, total - max(2 * IO_CPUS, total * _IO_SHARE) - fetchers * IO_CPUS)
    decode_cpus = None
    if kind == "spread":
        decode_cpus = _floor(min(1.0, free / (len(families) + 1))) if decodes else None
        crews = _spread(settings, families, nodes, hosts, free / (len(families) + decodes))
    else:
        # On CPUs workers decode themselves: handing pixels between processes costs more than it gains.
        decode_cpus = _floor(min(1.0, free / 2)) if decodes and hosts else None
        crews = [_colocated(settings, families, nodes, hosts, free)]
    if (stuck := pack(nodes, [*helpers(fetchers, decode_cpus), *crews])) is not None:
        asked = f" of at least {stuck.least}" if stuck.least > 1 else ""
        raise _NoRoomError(
            f"{stuck.name}: no node has room for actor {stuck.size + 1}{asked} ({stuck.need.describe()} each)"
        )
    pools, local = [], sum(node.cores for node in nodes)
    for crew in crews:
        own = tuple(families) if kind == "colocated" else (crew.name,)
        threads = None
        if not crew.need.gpus or settings.device == "cpu":
            threads = max(1, local // (crew.size if kind == "colocated" else len(families)) or int(crew.need.cpus))
        least = 1 if kind == "colocated" else crew.least
        pools.append(Pool(own, crew.size, least, crew.need, threads, tuple(sorted(crew.where.items())), crew.size))
    return Placement(kind, tuple(pools), decode_cpus, reason, fetchers, nodes)


def _choose(settings: FeaturesConfig, models: Sequence[str], hosts: Sequence[Node]) -> tuple[str, str]:
    gpus = sum(node.gpus for node in hosts)
    if settings.placement != "auto":
        return settings.placement, "as configured"
    if not gpus:
        return "colocated", "auto: no GPU for them, so every worker holds all the models and nothing is handed on"
    needs, device = _gpu_memory([settings.section(family) for family in models]), _device_memory(hosts)
    if needs and device and sum(needs) <= device:
        return "colocated", f"auto: {sum(needs):g} GB of models fit into a GPU of {device:g} GB together"
    if gpus < max(2, len(models)):
        return "colocated", f"auto: {gpus} GPU{'s' * (gpus > 1)} for {len(models)} models, so they share"
    return "spread", f"auto: {gpus} GPUs for {len(models)} models, so each has its own"


def _colocated(
    settings: FeaturesConfig, families: Sequence[str], nodes: Sequence[Node], hosts: Sequence[Node], free: float
) -> Crew:
    """Workers that hold all models."""
    sections = [settings.section(family) for family in families]
    memory = sum(section.memory_gb or 0.0 for section in sections)
    seconds = sum(find(family).cost for family in families)
    name, least = "+".join(families), settings.workers or 1
    if hosts:
        gpus = sum(node.gpus for node in hosts)
        needs, device = _gpu_memory([s for s in sections if s.num_gpus != 0]), _device_memory(hosts)
        share = 1
        if settings.workers:
            share = math.ceil(settings.workers / gpus)
        elif needs and device:
            share = max(1, min(_MOST_ON_A_GPU, int(device / sum(needs))))
        kind = next((section.gpu for section in sections if section.gpu), "")
        need = Need(_host_cpus(hosts, share), _floor(1 / share), memory, kind)
        return Crew(name, need, least, settings.workers or gpus * share, seconds / GPU_SPEED)
    threads = sum(node.threads for node in nodes)
    workers = settings.workers or max(1, min(threads, int(free / 0.5)))
    return Crew(name, Need(_floor(min(1.0, free / workers)), memory_gb=memory), least, workers, seconds)


def _spread(
    settings: FeaturesConfig, families: Sequence[str], nodes: Sequence[Node], hosts: Sequence[Node], each: float
) -> list[Crew]:
    """A pool a family; GPUs are taken whole, or in equal parts of which as many as there must be fit."""
    sections = {family: settings.section(family) for family in families}
    users = [section for section in sections.values() if section.num_gpus != 0]
    gpus = sum(node.gpus for node in hosts)
    device, needs = _device_memory(hosts), _gpu_memory(users)
    share = math.ceil(sum(section.min_actors for section in users) / gpus) if gpus else 1
    if device and needs:
        share = max(share, min(_MOST_ON_A_GPU, int(device / max(needs))))
    crews = []
    for family, section in sections.items():
        num_gpus = (_floor(1 / share) if hosts else 0.0) if section.num_gpus is None else section.num_gpus
        if num_gpus and section.gpu_memory_gb and device and section.gpu_memory_gb > max(1.0, num_gpus) * device:
            raise _NoRoomError(f"{family} takes {section.gpu_memory_gb:g} GB of a GPU, and one has {device:g}")
        usual = _host_cpus(hosts, share) if num_gpus and hosts else _floor(min(1.0, each / section.min_actors))
        need = Need(section.num_cpus or usual, num_gpus, section.memory_gb or 0.0, section.gpu if num_gpus else "")
        seconds = find(family).cost / (GPU_SPEED if num_gpus else 1.0)
        crews.append(Crew(family, need, section.min_actors, section.max_actors or math.inf, seconds))
    return crews


def _gpu_memory(sections: Sequence[FamilySettings]) -> list[float]:
    """GB of GPU memory of each model, where it is known of all."""
    known = [section.gpu_memory_gb for section in sections if section.gpu_memory_gb]
    return known if len(known) == len(sections) else []


def _device_memory(hosts: Sequence[Node]) -> float | None:
    """GB of the smallest GPU, where it is known of all."""
    known = [node.gpu_memory_gb for node in hosts if node.gpu_memory_gb]
    return min(known) if known and len(known) == len(hosts) else None


def _host_cpus(hosts: Sequence[Node], share: int) -> float:
    """CPUs of an actor on a GPU that so many `share`: a quarter of its node's for all of them; the rest decodes."""
    return _floor(min(1.0, *(node.cpus / (4 * node.gpus * share) for node in hosts)))


def _floor(value: float) -> float:
    """Down to the four decimals that Ray keeps, so that parts of a whole always fit into it."""
    return math.floor(value * 10_000 + 1e-9) / 10_000
