"""One writer a workspace: `lease.json` says which process holds it, and a second one is told.

In a folder the lock is the operating system's: it goes with its holder, however that ends. On S3 it is an object that
is written on condition, with a heartbeat: a holder that has not been heard of for `DEAD` seconds may be taken over
(clocks that differ by more than that break the promise). A server without conditional writes gives no lease.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from smp_ray.errors import WorkspaceError, one_line
from smp_ray.interrupt import interrupt, interruptible
from smp_ray.progress import say
from smp_ray.store.address import endpoint
from smp_ray.store.workspace import RETRIES, Workspace, writing

LEASE = "lease.json"
#: Seconds between two heartbeats on S3, and without one until a holder counts as dead.
HEARTBEAT, DEAD = 10.0, 60.0


@contextmanager
def holding(workspace: Workspace) -> Iterator[None]:
    """Hold the workspace for writing.

    Raises:
        WorkspaceError: another process holds it, or has taken it over meanwhile.
    """
    workspace.make_dir()
    with _locked(workspace) if workspace.is_local else _leased(workspace):
        yield


def _holder() -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"id": uuid.uuid4().hex, "host": socket.gethostname(), "process": os.getpid(), "since": now}


def _refusal(workspace: Workspace, raw: bytes, then: str) -> WorkspaceError:
    found = json.loads(raw or b"{}")
    who = f"process {found['process']} on {found['host']} since {found['since']}" if found else "another process"
    return WorkspaceError(f"{workspace.uri}: {who} is writing to this workspace; wait for it or stop it. {then}")


@contextmanager
def _locked(workspace: Workspace) -> Iterator[None]:
    path = workspace.path(LEASE)
    with writing(path):
        file = open(path, "a+b")  # noqa: SIM115 - closed below, which frees it
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _refusal(workspace, file.read(), "Once it has ended, the workspace is free.") from None
        except OSError as error:
            say(f"{path}: this file system has no locks ({one_line(error)}): see to it that one run writes at a time")
            yield
            return
        file.truncate(0)
        file.write(json.dumps(_holder()).encode())
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


@contextmanager
def _leased(workspace: Workspace) -> Iterator[None]:
    lease = _S3Lease(workspace)
    try:
        lease.take()
    except BaseError as error:
        say(f"{workspace.uri}: no lease ({one_line(error, 120)}): see to it that one run writes at a time")
        yield
        return
    beat = threading.Thread(target=lease.keep, daemon=True)
    beat.start()
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        if lease.lost:
            raise WorkspaceError(f"{workspace.uri}: another run has taken over this workspace; stopped") from None
        raise
    finally:
        lease.ended.set()
        beat.join()
        lease.release()


def _silent(found: Any) -> float:
    return float((datetime.now(UTC) - found.meta["last_modified"]).total_seconds())


class _S3Lease:
    """The object `lease.json`, and what this process knows of it."""

    def __init__(self, workspace: Workspace) -> None:
        address = urlsplit(workspace.uri)
        options = {name: values[-1] for name, values in parse_qs(address.query).items()}
        server = endpoint(options)
        where: Any = {"endpoint": server} if server else {}
        self._store: Any = S3Store(
            address.netloc,
            prefix=address.path.strip("/") or None,
            region=options.get("region") or workspace.filesystem.region,
            client_options={"allow_http": bool(server and server.startswith("http://"))},
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=20)},
            **where,
        )
        self._workspace = workspace
        self._holder = _holder()
        self._version: Any = None
        self.lost = False
        self.ended = threading.Event()

    def take(self) -> None:
        """Take the lease, also of a holder that is dead: one that is silent for so long; a live one is soon heard."""
        try:
            self._put("create")
            return
        except AlreadyExistsError:
            if self._is_ours():  # it was put, and the answer got lost
                return
        try:
            first = found = obstore.get(self._store, LEASE)
        except FileNotFoundError:  # given back meanwhile
            return self.take()
        if (silent := _silent(found)) < DEAD:
            say(f"{self._workspace.uri}: held; taken over in {DEAD - silent:.0f} s if its holder is dead")
        while (silent := _silent(found)) < DEAD:
            if found.meta["e_tag"] != first.meta["e_tag"]:
                raise _refusal(self._workspace, bytes(found.bytes()), "It is alive.")
            time.sleep(min(1.0, HEARTBEAT / 2))
            try:
                found = obstore.get(self._store, LEASE)
            except FileNotFoundError:  # given back meanwhile
                return self.take()
        try:
            self._put({"e_tag": found.meta["e_tag"]})
        except PreconditionError:
            if not self._is_ours():
                raise _refusal(self._workspace, b"", "It was a moment faster.") from None
        say(f"{self._workspace.uri}: taken over from a run that has been silent for {silent:.0f} s")

    def keep(self) -> None:
        """Send heartbeats until the end; where another holds the lease, interrupt the main thread."""
        while not self.ended.wait(HEARTBEAT):
            try:
                if not self._heard():
                    self.lost = True
                    interrupt()
                    return
            except BaseError as error:  # the next one may get through
                say(f"{self._workspace.uri}: heartbeat failed: {one_line(error, 120)}")

    def _heard(self) -> bool:
        """Send a heartbeat; whether the lease is still this process's."""
        try:
            self._put(self._version)
        except (PreconditionError, FileNotFoundError):
            return self._is_ours()
        return True

    def release(self) -> None:
        """Give it back; a heartbeat that fails here is one of a lease that ends by itself."""
        try:
            if not self.lost and self._is_ours():
                obstore.delete(self._store, LEASE)
        except BaseError as error:
            say(f"{self._workspace.uri}: the lease stays for {DEAD:.0f} s: {one_line(error, 120)}")

    def _is_ours(self) -> bool:
        """Whether the object is this process's: a heartbeat may arrive although its answer does not."""
        try:
            found = obstore.get(self._store, LEASE)
        except FileNotFoundError:
            return False
        self._version = {"e_tag": found.meta["e_tag"]}
        return bool(json.loads(bytes(found.bytes()))["id"] == self._holder["id"])

    def _put(self, mode: Any) -> None:
        beat = {**self._holder, "heartbeat": datetime.now(UTC).isoformat()}
        done = obstore.put(self._store, LEASE, json.dumps(beat).encode(), mode=mode)
        self._version = {"e_tag": done["e_tag"]}
