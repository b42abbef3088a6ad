"""What this machine has: cores, memory, and only those GPUs that torch can use."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from smp_ray import machine
from smp_ray.config import RayConfig
from smp_ray.errors import ConfigError
from smp_ray.ray_session import RaySession


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    for known in (machine.gpus, machine.memory):
        known.cache_clear()
    yield
    for known in (machine.gpus, machine.memory):
        known.cache_clear()


@pytest.fixture
def two_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: Some Laptop GPU (UUID: GPU-1)'\necho 'GPU 1: Some Card (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_cards")
@pytest.mark.parametrize(
    ("visible", "usable", "found", "said"),
    [(None, 2, 2, ""), (None, 0, 0, "of 2 GPUs torch can use 0"), ("1", 1, 1, ""), ("", 2, 0, ""), ("-1", 2, 0, "")],
)
def test_gpus_that_torch_cannot_use_do_not_count(
    visible: str | None, usable: int, found: int, said: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {usable}\n")  # in place of a torch that sees so many
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpus() == found
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("two_cards")
def test_instances_of_a_mig_device_all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch sees one of them in a process, whatever there is: it is not asked."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b")
    monkeypatch.setattr("sys.executable", "/no/such/python")
    assert machine.gpus() == 2


@pytest.mark.usefixtures("two_cards")
def test_gpus_that_give_no_answer_end_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(command: tuple[str, ...], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 60)

    monkeypatch.setattr("subprocess.run", silent)
    with pytest.raises(ConfigError, match=r"gave no answer in a minute; set ray\.num_gpus"):
        machine.gpus()


def test_a_local_ray_is_told_of_the_memory_that_is_there() -> None:
    (node,) = RaySession(RayConfig(address="local", object_store_mb=100)).nodes()
    assert node.cores == machine.cores()
    assert 0 < node.memory_gb * 1e9 < machine.memory().available
    (less,) = RaySession(RayConfig(address="local", object_store_mb=300)).nodes()
    assert less.memory_gb < node.memory_gb


@pytest.mark.parametrize(("limit", "total"), [("1000000000", 10**9), ("max", None), ("9223372036854771712", None)])
def test_a_containers_limit_of_memory_holds(
    limit: str, total: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    monkeypatch.setattr(machine, "_LIMITS", (tmp_path / "memory.max", tmp_path / "not there"))
    found, here = machine.memory(), psutil.virtual_memory()
    assert found.total == (total or here.total)
    assert found.available <= found.total
