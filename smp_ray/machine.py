"""What this machine has, for a local Ray: cores, GPUs, memory."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from smp_ray.errors import ConfigError
from smp_ray.progress import say

#: Where a container's limit of memory stands, by the version of its control groups.
_LIMITS = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")


def cores() -> int:
    """Cores that the affinity and the container's limit leave to this process."""
    from joblib import cpu_count

    return int(cpu_count())


@dataclass(frozen=True)
class Memory:
    """Bytes in all, and those that were free."""

    total: int
    available: int


@cache
def memory() -> Memory:
    """This machine's when it is first asked, so that a plan does not change with what runs; a container's limit holds.

    Ray goes by the same files, and would wait for what is beyond them.
    """
    import psutil

    here, texts = psutil.virtual_memory(), [path.read_text().strip() for path in _LIMITS if path.exists()]
    limit = min([int(text) for text in texts if text.isdigit()], default=here.total)  # "max": there is none
    return Memory(min(here.total, limit), min(here.available, limit))


@cache
def gpus() -> int:
    """NVIDIA GPUs that torch can use here; it is asked, in a process of its own, where there are any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1", "NoDevFiles") or shutil.which("nvidia-smi") is None:
        return 0
    if visible is None:
        listed = sum(line.startswith("GPU ") for line in _printed("nvidia-smi", "-L").splitlines())
    else:
        listed = len(visible.split(","))
    if not listed or (visible or "").startswith("MIG-"):
        return listed  # torch sees one instance of a MIG device in a process, and Ray gives each actor its own
    usable = int(_printed(sys.executable, "-c", "import torch; print(torch.cuda.device_count())") or 0)
    if usable < listed:
        say(f"of {listed} GPUs torch can use {usable}: is the driver new enough, and torch made for CUDA?")
    return usable


def _printed(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{command[0]}, which was asked for the GPUs of this machine, gave no answer in a minute; set ray.num_gpus"
        ) from None
