"""What a pass would take on a cluster: posts a second by step, hours, GPU-hours, money, room; and what would help.

A step's rate is its workers over their seconds a post; a pass is as fast as its slowest step. What a step takes was
measured by a pass (`profile`), or is a family's own rough number, which every line then says.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from smp_ray.errors import ConfigError, one_line
from smp_ray.families.registry import find, looking
from smp_ray.features.placement import GPU_SPEED
from smp_ray.features.pools import DECODE_SECONDS, IO_CPUS, Placement, Pool
from smp_ray.store.workspace import Place

DECODING = "decoding"
#: Pictures that a fetching actor has a second, of a server nearby.
_FETCHED = 300.0
#: A step with so much more room than the slowest is said to wait.
_IDLE = 3.0
#: Bytes of a post in the store where none were measured, and of what is handed on of its picture to a family.
_POST_BYTES, _PIXELS = 5_000.0, 3 * 384 * 384
#: Posts of an actor that computes and of one task more that waits for it, and room for everything else.
_AT_WORK, _ELSE = 2 * 64, 2e8


@dataclass(frozen=True)
class Figures:
    """What a pass measured.

    Attributes:
        device: "cpu", or the kind of GPU as Ray calls it.
        seconds: of one worker for a post, by step.
        other: seconds of a worker for a post besides its steps.
        start: seconds until the first batch was done.
        post_bytes: of a post in the store.
        gpu_memory: GB of GPU memory by step.
    """

    device: str = "cpu"
    seconds: dict[str, float] = field(default_factory=dict)
    other: float = 0.0
    start: float = 0.0
    post_bytes: float = _POST_BYTES
    gpu_memory: dict[str, float] = field(default_factory=dict)

    def of(self, step: str, rough: float, gpu: bool) -> tuple[float, bool]:
        """Seconds of a post in a step, and whether they were measured on such a device."""
        measured = self.seconds.get(step)
        # Pictures are decoded on CPUs wherever the models run.
        if measured is not None and (step == DECODING or gpu == (self.device != "cpu")):
            return measured, True
        speed = GPU_SPEED if gpu else 1.0
        return (measured / speed, False) if measured is not None and self.device == "cpu" else (rough / speed, False)


@dataclass(frozen=True)
class Rate:
    """How fast one step is: its workers together, in posts/s; `measured` or rough."""

    step: str
    workers: float
    seconds: float
    measured: bool
    where: str

    @property
    def posts(self) -> float:
        """Posts a second."""
        return self.workers / self.seconds if self.seconds else math.inf


@dataclass(frozen=True)
class Forecast:
    """A plan with what it would take for so many posts."""

    plan: Placement
    rates: tuple[Rate, ...]
    figures: Figures
    posts: int

    @property
    def slowest(self) -> Rate:
        """The bottleneck."""
        return min(self.rates, key=lambda rate: rate.posts)

    @property
    def hours(self) -> float:
        """From the first actor to the last post."""
        return (self.posts / self.slowest.posts + self.figures.start) / 3600

    def lines(self) -> list[str]:
        """All of it, for the user."""
        shown = [self.plan.describe()]
        for rate in self.rates:
            each = f"{rate.workers:,.4g} × {'' if rate.measured else '~'}{rate.seconds * 1000:,.3g} ms a post"
            shown.append(f"  {rate.step}: {each} = {_count(rate.posts)} posts/s{rate.where}")
        if not all(rate.measured for rate in self.rates):
            shown.append("  ~ is rough, not measured on such a device; --profile N measures where Ray is")
        shown.append(
            f"bottleneck: {self.slowest.step}, {_count(self.slowest.posts)} posts/s; {self.posts:,} posts take "
            f"{_span(self.hours)}"
        )
        gpus = sum(node.gpus for node in self.plan.nodes)
        prices = [node.price for node in self.plan.nodes if node.price is not None]
        costs = [f"{_count(gpus * self.hours)} GPU-hours"] if gpus else []
        if prices:
            some = "" if len(prices) == len(self.plan.nodes) else " (nodes with a price only)"
            costs.append(f"money: {sum(prices) * self.hours:,.2f}{some}")
        costs.append(f"workspace: {_size(self.posts * self.figures.post_bytes)}")
        costs.append(f"object store: at least {_size(self._object_store())} a node")
        return [*shown, "; ".join(costs), *self._advice()]

    def _object_store(self) -> float:
        """Bytes that the busiest node needs: of pixels that are handed from process to process."""
        actors = Counter[int]()
        for pool in self.plan.pools:
            actors.update(dict(pool.where))
        families = looking(name for pool in self.plan.pools for name in pool.families)
        handed = len(families) * _PIXELS if self.plan.decode_cpus else 0
        return max(actors.values()) * _AT_WORK * handed + _ELSE

    def _advice(self) -> list[str]:
        slow, found = self.slowest, []
        others = [rate.posts for rate in self.rates if rate is not slow]
        gain = min(others) / slow.posts if others else math.inf
        more = "another GPU" if any(pool.need.gpus for pool in self._pools(slow)) else "another CPU"
        upto = f", up to {gain:,.2g} times as fast" if 1.05 < gain < 100 else ""
        found.append(f"faster: {more} for {slow.step} adds {_count(slow.posts / slow.workers)} posts/s{upto}")
        for rate in self.rates:
            if rate.step == DECODING and rate is slow and any(pool.need.gpus for pool in self.plan.pools):
                found.append("warning: GPUs would wait for decoding; give the cluster nodes with CPUs alone")
            pools = self._pools(rate)
            if pools and pools[0].need.gpus and rate.posts > _IDLE * slow.posts and pools[0].actors > 1:
                busy, advice = slow.posts / rate.posts, ""
                if self.plan.kind == "spread":  # a worker that holds all models has no bound of its own
                    key = f"features.{find(rate.step).key()}.max_actors"
                    advice = f"; {key}={max(1, math.ceil(pools[0].actors * busy))} frees GPUs"
                found.append(f"warning: {rate.step} would wait {1 - busy:.0%} of the time{advice}")
        for step, size in self.figures.gpu_memory.items():
            key = f"features.{find(step).key()}.gpu_memory_gb"
            found.append(f"GPU memory: {step} took {size:,.2g} GB; {key}={1.2 * size:,.2g} lets models share a GPU")
        return found

    def _pools(self, rate: Rate) -> list[Pool]:
        return [pool for pool in self.plan.pools if "+".join(pool.families) == rate.step]


def forecast(plan: Placement, figures: Figures, posts: int) -> Forecast:
    """What a plan takes for so many posts."""
    rates = []
    inside = plan.decode_cpus is None
    for pool in plan.pools:
        found = [figures.of(name, find(name).cost, pool.threads is None) for name in pool.families]
        if inside and looking(pool.families):
            found.append(figures.of(DECODING, DECODE_SECONDS, False))
        seconds = sum(each for each, _ in found) + figures.other
        where = _where(plan, pool.where)
        rates.append(Rate("+".join(pool.families), pool.actors, seconds, all(known for _, known in found), where))
    if plan.decode_cpus:
        taken = sum(pool.actors * pool.need.cpus for pool in plan.pools) + (2 + plan.fetchers) * IO_CPUS
        free = sum(node.cpus for node in plan.nodes) - taken
        seconds, known = figures.of(DECODING, DECODE_SECONDS, False)
        decoders = max(1, int(free / plan.decode_cpus + 1e-6))  # the plan has room for one; the rest is rounding
        rates.append(Rate(DECODING, decoders, seconds, known, ", on the CPUs that are left"))
    if plan.fetchers:
        rates.append(Rate("fetching", plan.fetchers, 1 / _FETCHED, False, ""))
    return Forecast(plan, tuple(rates), figures, posts)


def figures_of(stats: Mapping[str, Any], post_bytes: float) -> Figures:
    """What the counts of a pass (`last_pass` of a family's manifest) say."""
    steps = {name: step for name, step in stats["steps"].items() if step["posts"]}
    seconds = {name: step["seconds"] / step["posts"] for name, step in steps.items()}
    memory = {name: step["gpu_memory"] / 1e9 for name, step in steps.items() if step["gpu_memory"]}
    other = 0.0
    if stats["colocated"] and stats["rows_per_second_steady"]:
        other = max(0.0, stats["workers"] / stats["rows_per_second_steady"] - sum(seconds.values()))
    return Figures(stats["device"], seconds, other, stats["first_batch_seconds"] or 0.0, post_bytes, memory)


def read_figures(path: str) -> Figures:
    """Figures of a JSON file, here or at an address, as `write_figures` made it or by hand.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        place = Place.open(path)
        with place.filesystem.open_input_stream(place.root) as file:
            return TypeAdapter(Figures).validate_json(file.readall())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--figures {path}: {one_line(error, 200)}") from None


def write_figures(figures: Figures, path: str) -> None:
    """Keep figures for another plan.

    Raises:
        ConfigError: they cannot be written there.
    """
    try:
        place = Place.open(path)
        with place.filesystem.open_output_stream(place.root) as file:
            file.write(json.dumps(asdict(figures), indent=1).encode())
    except OSError as error:
        raise ConfigError(f"--figures {path}: {one_line(error, 200)}") from None


def _where(plan: Placement, where: Sequence[tuple[int, int]]) -> str:
    """Which nodes, equal ones together: "; 2 on each of 3 × 8 CPUs, 1 GPU"."""
    groups: dict[tuple[str, int], int] = {}
    for number, count in where:
        key = (plan.nodes[number].describe(), count)
        groups[key] = groups.get(key, 0) + 1
    return "; " + ", ".join(f"{count} on {_each(nodes)}{text}" for (text, count), nodes in groups.items())


def _each(nodes: int) -> str:
    return f"each of {nodes} nodes with " if nodes > 1 else "a node with "


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def _span(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:,.1f} min" if hours > 1 / 60 else f"{hours * 3600:,.0f} s"


def _size(size: float) -> str:
    units: Iterable[tuple[float, str]] = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"))
    return next((f"{size / unit:,.3g} {name}" for unit, name in units if size >= unit), f"{size:,.0f} B")
