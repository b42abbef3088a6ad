"""Where the models run: decided from what the cluster has or may grow to, never from the driver's torch.

`colocated` gives every worker all the models; `spread` gives each model its own pool of actors, larger where a post
costs more. A plan fits node by node and GPU by GPU (`packing`), or is refused: Ray would wait in silence.
"""

import math
from collections.abc import Sequence

from smp_ray.config import FeaturesConfig
from smp_ray.errors import ConfigError
from smp_ray.families.base import FamilySettings
from smp_ray.families.registry import find, looking
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
    hosts = _hosts(settings, accelerated, nodes)
    kind, reason = _choose(settings, accelerated, hosts)
    decodes = bool(looking(families))
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
        most = max((node.memory_gb for node in nodes), default=math.inf)
        largest = f"; a node has at most {most:.3g} GB" if stuck.need.memory_gb and most < math.inf else ""
        raise _NoRoomError(
            f"{stuck.name}: no node has room for actor {stuck.size + 1}{asked} ({stuck.need.describe()} each{largest})"
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


def _hosts(settings: FeaturesConfig, models: Sequence[str], nodes: Sequence[Node]) -> list[Node]:
    """Nodes with a GPU for some of the models; none where there are none, and no model asks for one."""
    there = [node for node in nodes if node.gpus and node.cpus]
    sections = {model: settings.section(model) for model in models}
    kinds = {_kind([section], there) for section in sections.values()}
    hosts = [node for node in there if "" in kinds or node.gpu in kinds]
    for model, section in sections.items():
        if not hosts and settings.device != "cpu" and (section.gpu or section.num_gpus):
            raise _NoRoomError(f"{model}: no node has room for {section.num_gpus or 1:g} GPU {section.gpu}".rstrip())
    return hosts


def _choose(settings: FeaturesConfig, models: Sequence[str], hosts: Sequence[Node]) -> tuple[str, str]:
    gpus = sum(node.gpus for node in hosts)
    if settings.placement != "auto":
        return settings.placement, "as configured"
    if not gpus:
        return "colocated", "auto: no GPU for them, so every worker holds all the models and nothing is handed on"
    sections = [settings.section(family) for family in models]
    needs, device = _gpu_memory(sections), _device_memory(hosts)
    if needs and device and sum(needs) <= device:
        return "colocated", f"auto: {sum(needs):g} GB of models fit into a GPU of {device:g} GB together"
    device = _device_memory(hosts, _kind(sections, hosts))
    if gpus < max(2, len(models)):
        if gpus > 1 and needs and device and sum(needs) > device:
            return "spread", f"auto: {sum(needs):g} GB of models do not fit into a GPU of {device:g} GB together"
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
        gpus, users = sum(node.gpus for node in hosts), [section for section in sections if section.num_gpus != 0]
        kind = _kind(users, hosts)
        needs, device = _gpu_memory(users), _device_memory(hosts, kind)
        share = 1
        if settings.workers:
            share = math.ceil(settings.workers / gpus)
        elif needs and device:
            share = max(1, min(_MOST_ON_A_GPU, int(device / sum(needs))))
        _check_memory(name, sum(section.gpu_memory_gb or 0.0 for section in users), 1 / share, device)
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
        kind = _kind([section], hosts) if num_gpus else ""
        if num_gpus:
            _check_memory(family, section.gpu_memory_gb or 0.0, num_gpus, _device_memory(hosts, kind))
        usual = _host_cpus(hosts, share) if num_gpus and hosts else _floor(min(1.0, each / section.min_actors))
        need = Need(section.num_cpus or usual, num_gpus, section.memory_gb or 0.0, kind)
        seconds = find(family).cost / (GPU_SPEED if num_gpus else 1.0)
        crews.append(Crew(family, need, section.min_actors, section.max_actors or math.inf, seconds))
    return crews


def _check_memory(name: str, size: float, gpus: float, device: float | None) -> None:
    """A `_NoRoomError` where GB of models are more than what their GPUs, or their part of one, have."""
    if device and size > (gpus + 1e-4) * device:  # Ray keeps four decimals of a part
        has = "one has" if gpus == 1 else f"its {gpus:.3g} GPU has"
        raise _NoRoomError(f"{name} takes {size:g} GB of a GPU, and {has} {gpus * device:.3g}")


def _kind(sections: Sequence[FamilySettings], hosts: Sequence[Node]) -> str:
    """The kind of GPU that models need; "": any, as on this machine alone, of whose GPUs the kind is not known."""
    if all(node.cores and not node.gpu for node in hosts):
        return ""
    return next((section.gpu for section in sections if section.gpu), "")


def _gpu_memory(sections: Sequence[FamilySettings]) -> list[float]:
    """GB of GPU memory of each model, where it is known of all."""
    known = [section.gpu_memory_gb for section in sections if section.gpu_memory_gb]
    return known if len(known) == len(sections) else []


def _device_memory(hosts: Sequence[Node], kind: str = "") -> float | None:
    """GB of the smallest GPU of a kind ("": any), where it is known of all."""
    sizes = [node.gpu_memory_gb for node in hosts if kind in ("", node.gpu)]
    known = [size for size in sizes if size]
    return min(known) if known and len(known) == len(sizes) else None


def _host_cpus(hosts: Sequence[Node], share: int) -> float:
    """CPUs of an actor on a GPU that so many `share`: a quarter of its node's for all of them; the rest decodes."""
    return _floor(min(1.0, *(node.cpus / (4 * node.gpus * share) for node in hosts)))


def _floor(value: float) -> float:
    """Down to the four decimals that Ray keeps, so that parts of a whole always fit into it."""
    return math.floor(value * 10_000 + 1e-9) / 10_000
