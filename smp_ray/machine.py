"""What this machine has, for a local Ray: cores, GPUs, memory."""

import os
import shutil
import subprocess
import sys
from functools import cache
from typing import Any

from smp_ray.progress import say


def cores() -> int:
    """Cores that the affinity and the container's limit leave to this process."""
    from joblib import cpu_count

    return int(cpu_count())


@cache
def memory() -> Any:
    """`total` and `available` bytes when it is first asked, so that a plan does not change with what runs."""
    import psutil

    return psutil.virtual_memory()


@cache
def gpus() -> int:
    """NVIDIA GPUs that torch can use here; it is asked, in a process of its own, where there are any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1", "NoDevFiles") or shutil.which("nvidia-smi") is None:
        return 0
    listed = _printed("nvidia-smi", "-L").count("GPU ") if visible is None else len(visible.split(","))
    if not listed:
        return 0
    usable = int(_printed(sys.executable, "-c", "import torch; print(torch.cuda.device_count())") or 0)
    if usable < listed:
        say(f"of {listed} GPUs torch can use {usable}: is the driver new enough, and torch made for CUDA?")
    return usable


def _printed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()
