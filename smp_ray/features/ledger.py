"""What the driver knows of a pass while it runs, and how a post that kills its worker is found out.

Before a worker computes a batch it says so to the `Ledger`. Where a worker dies, Ray gives its batch to another one,
and that one hears which posts were in work at the time: each of these is computed alone, step by step. Where a worker
dies again, the ledger knows of which post, and in which step; that step of that post is not tried a third time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from smp_ray.errors import FeaturePassError
from smp_ray.features.telemetry import count_step, gpu_memory, most_gpu_memory, show_rate

#: So many posts that killed their worker, before any was computed, are a broken model and not bad data.
SYSTEMIC = 8
#: A worker that died so many times while it loaded its models will not do better.
LOADS = 3
#: Seconds to wait for the ledger; without its answer, work goes on as if nothing had died.
PATIENCE = 30.0


@dataclass(frozen=True)
class StepFigures:
    """What a step took so far: of how many posts, seconds of its workers, and bytes of GPU memory at most."""

    posts: int = 0
    seconds: float = 0.0
    gpu_memory: int = 0

    def __add__(self, other: "StepFigures") -> "StepFigures":
        memory = max(self.gpu_memory, other.gpu_memory)
        return StepFigures(self.posts + other.posts, self.seconds + other.seconds, memory)


class Ledger:
    """An actor beside the driver. Losing it loses no data: what is in work is then forgotten, and counts start anew."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._work: dict[tuple[str, int], str] = {}
        self._killed: dict[tuple[str, int], set[str]] = {}
        self._loads: dict[str, int] = {}
        self._notes: list[str] = []
        self._ready: set[str] = set()
        self._steps: dict[str, StepFigures] = {}
        self._workers: set[str] = set()
        self._posts = self._steady = 0
        self._first: float | None = None
        self._start = self._last = 0.0

    def loading(self, worker: str) -> int:
        """A worker begins to load its models; how many times it did so since it last could work, this one included."""
        self._loads[worker] = self._loads.get(worker, 0) + 1
        return self._loads[worker]

    def loaded(self, worker: str) -> None:
        """A worker has its models."""
        self._loads.pop(worker, None)
        self._ready.add(worker)

    def begin(self, stage: str, rows: Sequence[int]) -> list[tuple[str, ...] | None]:
        """Posts are taken in work: None for each that nobody lost, else the steps in which it killed a worker.

        Raises:
            FeaturePassError: every post so far has killed its worker.
        """
        found: list[tuple[str, ...] | None] = []
        for row in rows:
            step = self._work.get((stage, row))
            if step:
                self._killed.setdefault((stage, row), set()).add(step)
            found.append(None if step is None else tuple(self._killed.get((stage, row), ())))
            self._work[stage, row] = ""
        if len(self._killed) >= SYSTEMIC and not self._posts:
            steps = ", ".join(sorted(set().union(*self._killed.values())))
            raise FeaturePassError(f"{len(self._killed)} posts killed their worker, one after the other, in {steps}")
        return found

    def alone(self, stage: str, row: int, step: str) -> None:
        """A post is computed alone, and is now in this step; "": it came through all."""
        if step:
            self._work[stage, row] = step
        else:
            self._work.pop((stage, row), None)

    def end(self, stage: str, rows: Sequence[int], steps: dict[str, StepFigures]) -> None:
        """Posts are no longer in work; `steps` says what each step of them took."""
        for row in rows:
            self._work.pop((stage, row), None)
        for name, figures in steps.items():
            self._steps[name] = self._steps.get(name, StepFigures()) + figures

    def note(self, line: str) -> None:
        """Something that the user is told once."""
        if line not in self._notes:
            self._notes.append(line)

    def finished(self, worker: str, rows: int) -> None:
        """A worker of the last pool handed a batch to the writer."""
        self._last = time.time() - self._began
        self._posts += rows
        self._steady += rows
        if worker not in self._workers:
            self._workers.add(worker)
            self._first = self._first or self._last
            self._start, self._steady = self._last, 0
        elif self._last > self._start:
            show_rate(self._steady / (self._last - self._start))

    def snapshot(self) -> dict[str, Any]:
        """Posts, notes, workers that have their models, steps; seconds to the first batch, steady posts/s.

        Steady: since all workers of the last pool had finished one.
        """
        rate = self._steady / (self._last - self._start) if self._last > self._start else None
        return {
            "computed": self._posts, "first_batch_seconds": self._first, "rows_per_second_steady": rate,
            "notes": list(self._notes), "ready": len(self._ready),
            "steps": {name: asdict(figures) for name, figures in self._steps.items()},
        }  # fmt: skip


def start_ledger(began: float) -> Any:
    """A ledger on the driver's own node, where no lost worker takes it along; `began` is by `time.time`."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Ledger).options(num_cpus=0, scheduling_strategy=here, max_restarts=-1).remote(began)


def asked(call: Any, otherwise: Any) -> Any:
    """The answer of a call of the ledger, or what holds without one."""
    try:
        return ray.get(call, timeout=PATIENCE)
    except (RayActorError, GetTimeoutError):
        return otherwise


@dataclass(frozen=True)
class Step:
    """One thing that is done to posts, and what becomes of a post that kills its worker in it.

    Attributes:
        loaded: bytes that the models of this process take on its GPU, those of the steps before included: each is made
            when its model is loaded, and the next model after that.
    """

    name: str
    run: Callable[[pa.Table], pa.Table]
    killed: Callable[[pa.Table], pa.Table]
    loaded: int = field(default_factory=gpu_memory)


def guarded(ledger: Any, stage: str, steps: Sequence[Step], table: pa.Table) -> pa.Table:
    """Take a table of posts through all steps; those with which a worker died before one by one, at the end."""
    rows = table["row_id"].to_pylist()
    before = asked(ledger.begin.remote(stage, rows), [None] * len(rows))
    fresh = pa.array([found is None for found in before])
    made, took, loaded = table.filter(fresh), {}, 0
    for step in steps:
        began, taken = time.perf_counter(), gpu_memory()
        made = step.run(made)
        seconds, model = time.perf_counter() - began, step.loaded - loaded
        loaded = step.loaded
        took[step.name] = StepFigures(made.num_rows, seconds, model + most_gpu_memory() - taken)
        count_step(step.name, made, seconds, took[step.name].gpu_memory)
    tables = [made]
    for place, killed in enumerate(before):
        if killed is None:
            continue
        one = table.slice(place, 1)
        for step in steps:
            asked(ledger.alone.remote(stage, rows[place], step.name), None)
            one = step.killed(one) if step.name in killed else step.run(one)
        ledger.alone.remote(stage, rows[place], "")
        tables.append(one)
    ledger.end.remote(stage, rows, took)
    return pa.concat_tables(tables)
