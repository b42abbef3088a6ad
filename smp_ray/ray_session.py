"""Starting Ray once for all stages of a command, quietly, and saying what the cluster has."""

import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import IO, Any

from smp_ray import machine
from smp_ray.config import RayConfig
from smp_ray.errors import SmpRayError, one_line
from smp_ray.progress import Reporter
from smp_ray.resources import Node, live_nodes, nodes_of

#: The least number of logical CPUs of a local Ray: readers, writers and workers need room.
LEAST_LOGICAL_CPUS = 4
#: Environment of the workers. glibc gives the memory of every large tensor back to the system and faults it in again
#: for the next one; keeping it makes the forward pass of ViT-B-32 on a CPU some 5 to 9 % faster.
WORKER_ENV = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass
class RaySession:
    """Ray, started when a stage first asks for it; the settings' environment is this process's from the beginning.

    A library that reads its variables when it is imported (huggingface_hub) must not have been imported before.

    Attributes:
        debug: whether Ray's own log is shown as well.
    """

    settings: RayConfig
    debug: bool = False
    started: bool = False

    def __post_init__(self) -> None:
        os.environ.update(self._env())

    def start(self) -> None:
        """Start a local Ray or connect to the cluster, which may be out of reach (SmpRayError); once is enough."""
        if self.started:
            return
        if not self.debug:
            # Its native code would tell of each actor that dies.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        import ray
        import ray.data

        if not self.debug:
            # What it logs of an error comes as an exception, too, and that is shown.
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        address = self.address
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            with _announcement_hidden():
                if address:
                    # A job's variables and ours: where both name one, Ray would refuse and print the values of all.
                    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
                    ray.init(address=address, runtime_env={"env_vars": {**WORKER_ENV, **self._env()}}, **common)
                else:
                    self._start_local(ray, common)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = address or "this machine"
            raise SmpRayError(f"Ray at {where} cannot be reached: {one_line(error)}") from error
        self.started = True

    def _start_local(self, ray: Any, common: dict[str, Any]) -> None:
        (here,) = self.nodes()
        # Inherited by all that Ray starts here; a runtime environment would cost every worker extra seconds.
        for name, value in WORKER_ENV.items():
            os.environ.setdefault(name, value)
        # Inherited as well: without a dashboard, Ray Train's clean-up would look for one for 12 s after every training.
        os.environ.setdefault("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
        ray.init(
            address="local",
            num_cpus=int(here.cpus),
            num_gpus=here.gpus,
            object_store_memory=self._object_store,
            include_dashboard=False,
            **common,
        )

    @property
    def _object_store(self) -> int:
        """Bytes of a local Ray's object store."""
        share = int(machine.memory().total * 0.3)
        limit = self.settings.object_store_mb
        return limit * 2**20 if limit else min(2 * 2**30, share)

    def cpus_of(self, threads: float, setting: str = "") -> float:
        """Logical CPUs that a task of so many busy threads must ask for.

        A local Ray has more logical CPUs than cores, so that many light tasks fit; heavy ones would crowd the cores.
        A SmpRayError where no node has so many, as Ray would wait in silence; it names the `setting`, if one says how
        many.
        """
        nodes = self.nodes()
        share = max(1.0, nodes[0].cpus / nodes[0].cores) if self.address is None else 1.0
        largest = max((node.cpus for node in nodes), default=threads)
        if threads * share > largest:
            advice = f"lower {setting}" if setting else "it needs a larger one"
            raise SmpRayError(f"a task takes {threads:g} CPUs, but the largest node has {largest / share:g}; {advice}")
        return threads * share

    @property
    def gpus(self) -> int:
        """GPUs of this machine for a local Ray, which is told the same number, else of the cluster, which is asked."""
        if self.address is None:
            return machine.gpus() if self.settings.num_gpus is None else self.settings.num_gpus
        return sum(node.gpus for node in self.nodes())

    def nodes(self) -> tuple[Node, ...]:
        """The nodes that Ray has or will have, or of a cluster that grows (`ray.cluster`) those that it may have.

        A node without CPUs, as a cluster's head may be, is none: nothing is placed there.
        """
        if self.grows:
            return nodes_of(self.settings.cluster or ())
        if self.address is None:
            cores = machine.cores()
            # Somewhat less than Ray finds, which would wait for the rest.
            memory = 0.9 * machine.memory().available - self._object_store
            cpus = self.settings.num_cpus or max(LEAST_LOGICAL_CPUS, cores)
            return (Node(cpus, self.gpus, max(0.0, memory / 1e9), cores=cores),)
        self.start()
        return tuple(node for node in live_nodes() if node.cpus)

    @property
    def grows(self) -> bool:
        """Whether Ray is a cluster of which the configuration says what it may grow to."""
        return self.settings.cluster is not None and self.address is not None

    def _env(self) -> dict[str, str]:
        return {name: value.get_secret_value() for name, value in self.settings.env.items()}

    @property
    def address(self) -> str | None:
        """Address of the cluster; None for a Ray of this command's own."""
        address = self.settings.address or os.environ.get("RAY_ADDRESS")
        return None if address in (None, "", "local") else address

    def gather(self, tasks: Sequence[Any], reporter: Reporter) -> list[Any]:
        """Results of Ray tasks in their order; shows how many have ended."""
        import ray

        waiting = list(tasks)
        with reporter:
            while waiting:
                # More than one at a time: Ray looks at all of them each time.
                _, waiting = ray.wait(waiting, num_returns=-(-len(waiting) // 100))
                reporter.update(len(tasks) - len(waiting), len(tasks))
        return list(ray.get(list(tasks)))

    def close(self) -> None:
        """Stop the local Ray or leave the cluster."""
        if self.started:
            import ray

            ray.shutdown()
            self.started = False


@contextmanager
def ray_session(settings: RayConfig, debug: bool = False) -> Iterator[RaySession]:
    """A session that is closed whatever happens."""
    session = RaySession(settings, debug)
    with redirect_stdout(sys.stdout if debug else _WithoutRaylet(sys.stdout)):
        try:
            yield session
        finally:
            session.close()


class _WithoutRaylet(io.TextIOBase):
    """Standard output without the tracebacks that Ray prints there of errors that it raises as well."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._dropped = False

    def write(self, text: str) -> int:
        # Ray prints a whole message in one call and its line end in another.
        if "(raylet)" in text[:24] or (self._dropped and text == "\n"):
            self._dropped = text != "\n"
            return len(text)
        self._dropped = False
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


@contextmanager
def _announcement_hidden() -> Iterator[None]:
    """Ray's native code says on standard error that it was told to be quiet; all else is passed on."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught.read().splitlines(keepends=True):
                if b"Set ray log level" not in line:
                    os.write(2, line)
