"""One writer at a time, in a folder and on S3, between real processes; addresses with credentials are refused.

It also tests `store/address.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import obstore
import pytest

from smp_ray.errors import WorkspaceError
from smp_ray.store import lease
from smp_ray.store.address import has_credentials, without_query
from smp_ray.store.lease import LEASE, holding
from smp_ray.store.workspace import Workspace

HOLD = """
import sys, time
from smp_ray.store.lease import holding
from smp_ray.store.workspace import Workspace
with holding(Workspace.open(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(uri: str, seconds: float = 600) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, uri, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_told_and_a_killed_one_is_followed(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path / "run"))
    first = holder(workspace.uri)
    with (
        pytest.raises(WorkspaceError, match=f"process {first.pid} on .* is writing to this workspace"),
        holding(workspace),
    ):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    for _ in range(2):  # the same process may take it again
        with holding(workspace):
            assert f'"process": {os.getpid()}' in workspace.read(LEASE).decode()
    assert workspace.read(LEASE) == b""


@pytest.mark.slow
def test_on_s3_a_holder_is_dead_when_it_is_silent(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace.open(bucket.format("run"))
    first = holder(workspace.uri)
    with (
        pytest.raises(WorkspaceError, match=rf"process {first.pid} on .*It is alive"),
        holding(workspace),
    ):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert workspace.exists(LEASE)
    monkeypatch.setattr(lease, "DEAD", 2.0)
    with holding(workspace):
        assert f'"process": {os.getpid()}' in workspace.read(LEASE).decode()
    assert not workspace.exists(LEASE)


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])  # ignored: as a script's background
def test_on_s3_heartbeats_keep_it_and_the_loser_stops(
    bucket: str, monkeypatch: pytest.MonkeyPatch, handler: signal.Handlers
) -> None:
    workspace = Workspace.open(bucket.format("ignored" if handler is signal.SIG_IGN else "run"))
    monkeypatch.setattr(lease, "HEARTBEAT", 0.2)
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(WorkspaceError, match="another run has taken over this workspace; stopped"):
            lose(workspace)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert workspace.read(LEASE) == b'{"id": "another"}'


def test_on_s3_a_heartbeat_whose_fate_is_not_known_is_followed_by_another(
    bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace.open(bucket.format("fate"))
    monkeypatch.setattr(lease, "HEARTBEAT", 0.2)
    with holding(workspace):
        # A heartbeat arrives, its answer does not, and the question whose the lease is remains unanswered, too.
        fail_once(monkeypatch, "put", obstore.exceptions.PreconditionError("another version"))
        fail_once(monkeypatch, "get", obstore.exceptions.GenericError("the answer got lost"))
        time.sleep(1)
        before = workspace.read(LEASE)
        time.sleep(0.5)
        assert workspace.read(LEASE) != before
    assert "heartbeat failed: the answer got lost" in capsys.readouterr().err


def test_on_s3_a_lease_whose_answer_got_lost_is_taken(
    bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, put = Workspace.open(bucket.format("lost")), obstore.put

    def heard_twice(*given: object, **named: object) -> object:
        monkeypatch.setattr(obstore, "put", put)
        put(*given, **named)  # its answer gets lost, and it is asked again
        return put(*given, **named)

    monkeypatch.setattr(obstore, "put", heard_twice)
    with holding(workspace):
        workspace.read(LEASE)
    assert not capsys.readouterr().err
    assert not workspace.exists(LEASE)


def fail_once(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    kept = getattr(obstore, name)

    def failing(*_: object, **__: object) -> None:
        monkeypatch.setattr(obstore, name, kept)
        raise error

    monkeypatch.setattr(obstore, name, failing)


def lose(workspace: Workspace) -> None:
    with holding(workspace):
        before = workspace.read(LEASE)
        time.sleep(1)
        assert workspace.read(LEASE) != before
        workspace.write(b'{"id": "another"}', LEASE)
        time.sleep(30)


def test_without_conditional_writes_there_is_no_lease(
    bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(obstore, "put", refuse)
    with holding(Workspace.open(bucket.format("run"))):
        pass
    assert "no lease (" in capsys.readouterr().err


def refuse(*_: object, **__: object) -> None:
    raise obstore.exceptions.NotSupportedError("A header you provided implies functionality that is not implemented")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:hush@bucket/x",
        "https://user:hush@host/posts.csv",
        "s3://bucket/x?access_key=hush&secret_key=hush",
        "https://host/a.jpg?X-Amz-Signature=hush",
        "s3://[hush@",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(uri: str) -> None:
    assert has_credentials(uri)
    with pytest.raises(WorkspaceError, match="belong in the environment") as caught:
        Workspace.open(uri)
    assert "hush" not in str(caught.value)
    assert "hush" not in without_query(uri)


@pytest.mark.parametrize("uri", ["s3://bucket/a@b?endpoint_override=host:1&scheme=http&region=x", "a/b:c@d"])
def test_other_addresses_are_not_refused(uri: str) -> None:
    assert not has_credentials(uri)


@pytest.mark.slow
def test_of_two_drivers_one_works_and_one_is_told(tmp_path: Path) -> None:
    """And when the first is killed, the next goes on."""
    config = tmp_path / "config.yaml"
    config.write_text(f"workspace: {tmp_path / 'run'}\nsource: {{kind: demo, posts: 20}}\n")

    def command(name: str) -> list[str]:
        return [sys.executable, "-m", "smp_ray.cli", name, str(config)]

    first = holder(str(tmp_path / "run"))
    second = subprocess.run(command("ingest"), capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"process {first.pid} on " in second.stderr
    assert not (tmp_path / "run" / "ingest").exists()
    looks = subprocess.run(command("status"), capture_output=True, text=True, check=False)
    assert "never run: smp-ray ingest" in looks.stdout + looks.stderr
    first.kill()
    first.wait()
    third = subprocess.run(command("ingest"), capture_output=True, text=True, check=False)
    assert third.returncode == 0, third.stderr
