"""A Ray cluster of several nodes on this machine, and S3 beside it: a rehearsal of what a real cluster will do.

    python cluster/rehearse.py --node cpus=4,gpus=2 --node cpus=2
    python cluster/rehearse.py --node cpus=2 --node cpus=2 -- ray job submit --working-dir . -- python jobs/run.py …

CPUs and GPUs are logical ones: they decide what Ray places where, not how fast it is. The environment in which to use
the cluster is printed; without a command, the cluster waits for Ctrl-C. `{WORKSPACE}` in a command is the address of a
workspace in the bucket. S3 and the dashboard are on loopback, and all of Ray asks for its token. Needs the `dev` extra.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pyarrow.fs as pafs
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

HOST = "127.0.0.1"
BUCKET = "rehearsal"
RAY = (sys.executable, "-m", "ray.scripts.scripts")
#: Bytes of a node's object store; the least that Ray takes is some 75 MB.
OBJECT_STORE = 300 * 2**20
#: Seconds to wait for a node.
PATIENCE = 180.0
#: Minutes after which an autoscaler takes an idle node away.
IDLE_MINUTES = 0.3
#: Ray's own provider of nodes on one machine, for trials of its autoscaler.
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
#: What `ray start` says once a node is there.
_STARTED = "Ray runtime started."
#: What S3 says now and then.
_ERRORS = (("500 Internal Server Error", "InternalError"), ("503 Slow Down", "SlowDown"))


@dataclass(frozen=True)
class Node:
    """Logical resources of a node; of a group that grows, there are `most` of them at most."""

    cpus: float = 1
    gpus: float = 0
    most: float = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """A node as the command line gives it, `cpus=4,gpus=2`; a ValueError for anything else."""
        found = dict(part.split("=", 1) for part in text.split(","))
        if unknown := set(found) - {"cpus", "gpus", "most"}:
            raise ValueError(f"found {', '.join(sorted(unknown))}, allowed: cpus, gpus, most")
        return cls(**{name: float(value) for name, value in found.items()})


class Bucket:
    """An S3 server in this process with one empty bucket.

    Attributes:
        env: what its clients' environment must hold.
        errors: share of the requests that are answered by 500 or 503; may be changed at any time.
        requests, failed: how many came, and how many of them were answered so.
    """

    def __init__(self, errors: float = 0.0, seed: int = 0) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.errors, self.requests, self.failed = 0.0, 0, 0
        self._random = random.Random(seed)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(HOST, 0, self._answer, threaded=True)
        threading.Thread(target=self._server.serve_forever, name="s3", daemon=True).start()
        self.env = {
            "AWS_ACCESS_KEY_ID": "rehearsal", "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        pafs.S3FileSystem(
            access_key="rehearsal", secret_key="rehearsal", region="us-east-1", scheme="http",
            endpoint_override=f"{HOST}:{self._server.server_port}", allow_bucket_creation=True,
        ).create_dir(BUCKET)  # fmt: skip
        self.errors = errors

    def address(self, prefix: str, bucket: str = BUCKET) -> str:
        """An address in the bucket, as `workspace:` takes it."""
        return f"s3://{bucket}/{prefix}?endpoint_override={HOST}:{self._server.server_port}&scheme=http"

    def close(self) -> None:
        """Stop; what is in the bucket is gone."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: dict[str, Any], start: Any) -> Iterable[bytes]:
        self.requests += 1
        status, code = "", ""
        if "HTTP_AUTHORIZATION" not in request:  # moto would let anybody in
            status, code = "403 Forbidden", "AccessDenied"
        elif self._random.random() < self.errors:
            self.failed += 1
            status, code = self._random.choice(_ERRORS)
        if not status:
            return self._moto(request, start)
        request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>rehearsed</Message></Error>".encode()
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if request["REQUEST_METHOD"] == "HEAD" else [body]


class Rehearsal:
    """The cluster, while it is entered: a head, and nodes each with a raylet and a session folder of its own.

    Attributes:
        env: the environment in which `ray`, `smp-ray` and Python reach it.
        bucket: its S3.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        head: Node = Node(cpus=0),
        s3_errors: float = 0.0,
        grows: Sequence[Node] = (),
    ) -> None:
        self._first, self._head, self._errors, self._grows = nodes, head, s3_errors, grows
        self._running: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Sockets lie inside, whose paths may have 107 bytes.
            self.folder = Path(tempfile.mkdtemp(prefix="smp", dir="/tmp"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.bucket = Bucket(self._errors)
            stack.callback(self.bucket.close)
            port, client, dashboard = _free_ports(3)
            # A Ray that the caller's environment speaks of is another one.
            self.env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
            self.env |= self.bucket.env | {
                "RAY_ADDRESS": f"{HOST}:{port}",
                "RAY_API_SERVER_ADDRESS": f"http://{HOST}:{dashboard}",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(32),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                # There are more logical CPUs than cores, so that starting may take long.
                "OMP_NUM_THREADS": "1",
                "RAY_raylet_start_wait_time_s": f"{PATIENCE:.0f}",
                # Nobody would take workers that a node starts in advance: a job has an environment of its own.
                "RAY_prestart_worker_first_driver": "0",
            }
            stack.callback(self._stop)
            self._start(
                self._head, "--head", f"--port={port}", f"--ray-client-server-port={client}",
                f"--dashboard-host={HOST}", f"--dashboard-port={dashboard}", *self._autoscaler(),
            )  # fmt: skip
            self._wait(0)
            self.add(*self._first)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @property
    def nodes(self) -> int:
        """How many were started so far, beside the head."""
        return len(self._running) - 1

    def processes(self, name: str, number: int | None = None) -> list[psutil.Process]:
        """Processes with `name` in their command line: of all nodes, or one; the head is number 0."""
        running = self._running if number is None else [self._running[number]]
        return [child for node in running for child in _below(node) if any(name in part for part in _command(child))]

    def kill(self, number: int) -> None:
        """SIGKILL the raylet of a node, which takes all that runs there along; the head is number 0."""
        self.processes("raylet/raylet", number)[0].kill()

    def add(self, *nodes: Node) -> None:
        """Start further nodes, numbered on, and wait for them."""
        began = len(self._running)
        for node in nodes:
            self._start(node, f"--address={self.env['RAY_ADDRESS']}")
        self._wait(*range(began, len(self._running)))

    def _autoscaler(self) -> list[str]:
        """Options by which the head starts and stops nodes itself, with Ray's provider for one machine."""
        if not self._grows:
            return []
        groups = {
            f"group-{number}": {
                "resources": {"CPU": node.cpus, "GPU": node.gpus, "object_store_memory": OBJECT_STORE},
                "node_config": {}, "min_workers": 0, "max_workers": int(node.most),
            }
            for number, node in enumerate(self._grows)
        }  # fmt: skip
        head, kind = "f" * 51 + "00000", "ray.head.default"  # as the provider has them
        file = self.folder / "autoscaler.json"
        file.write_text(json.dumps({
            "cluster_name": "rehearsal", "max_workers": int(sum(node.most for node in self._grows)),
            "idle_timeout_minutes": IDLE_MINUTES, "upscaling_speed": 1.0, "head_node_type": kind, "auth": {},
            "provider": {
                "type": "external", "module": _PROVIDER, "gcs_address": self.env["RAY_ADDRESS"], "head_node_id": head,
                "launch_multiple": True, "disable_node_updaters": True,
            },
            "available_node_types": {
                kind: {"resources": {"CPU": self._head.cpus}, "node_config": {}, "max_workers": 0}, **groups,
            },
            "docker": {}, "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False,
            "rsync_exclude": [], "rsync_filter": [], "initialization_commands": [], "setup_commands": [],
            "head_setup_commands": [], "worker_setup_commands": [], "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
        }))  # fmt: skip
        self.env |= {
            "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": head,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": head, "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }  # fmt: skip
        return [f"--autoscaling-config={file}"]

    def _start(self, node: Node, *options: str) -> None:
        folder = self.folder / str(len(self._running))
        call = [
            *RAY, "start", "--block", *options, f"--node-ip-address={HOST}", f"--temp-dir={folder}",
            f"--num-cpus={node.cpus:g}", f"--num-gpus={node.gpus:g}", f"--object-store-memory={OBJECT_STORE}",
            # 0: any that is free.
            "--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0", "--metrics-export-port=0",
            "--runtime-env-agent-port=0", "--disable-usage-stats",
        ]  # fmt: skip
        env = {name: value for name, value in self.env.items() if name not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
        with self._log(len(self._running)).open("wb") as log:
            started = subprocess.Popen(call, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._running.append(started)

    def _log(self, number: int) -> Path:
        return self.folder / f"{number}.log"

    def _wait(self, *numbers: int) -> None:
        """Until these nodes are there, or a RuntimeError."""
        began = time.monotonic()
        while waiting := [number for number in numbers if _STARTED not in self._log(number).read_text()]:
            ended = [number for number in waiting if self._running[number].poll() is not None]
            if ended or time.monotonic() - began > PATIENCE:
                logs = "\n".join(self._log(number).read_text() for number in ended or waiting)
                raise RuntimeError(f"a node does not start:\n{logs}")
            time.sleep(0.2)

    def _stop(self) -> None:
        """Kill what was started here, nothing else; asked to end by themselves, nodes take half a minute."""
        # Parents first; a worker that its raylet starts meanwhile ends by itself, without it.
        found = [one for node in self._running for one in _below(node)]
        for node in self._running:
            node.kill()
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=PATIENCE)
        for node in self._running:
            node.wait()
        self._running.clear()


def _below(node: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(psutil.Process(node.pid).children(recursive=True))
    return []


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(process.cmdline())
    return []


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", action="append", type=Node.parse, metavar="cpus=N,gpus=N", help="once a node")
    parser.add_argument(
        "--grow",
        action="append",
        type=Node.parse,
        metavar="cpus=N,gpus=N,most=N",
        help="a group of nodes that come by demand",
    )
    parser.add_argument("--head-cpus", type=float, default=0.0, help="0, so that no work is placed there")
    parser.add_argument("--s3-errors", type=float, default=0.0, help="share of S3's answers that are 500 or 503")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="run it and end")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and take all down
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    nodes = given.node or ([] if given.grow else [Node(cpus=2)] * 2)
    with Rehearsal(nodes, Node(given.head_cpus), given.s3_errors, given.grow or ()) as rehearsal:
        added = {name: value for name, value in rehearsal.env.items() if os.environ.get(name) != value}
        workspace = rehearsal.bucket.address("run")
        if command:
            command = [word.replace("{WORKSPACE}", workspace) for word in command]
            return subprocess.run(command, env=rehearsal.env, check=False).returncode
        for name, value in {**added, "WORKSPACE": workspace}.items():
            print(f"export {name}='{value}'")
        print("# Ctrl-C ends the cluster", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
