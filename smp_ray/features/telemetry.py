"""What a pass tells Ray's metrics, which the dashboard shows and Prometheus scrapes."""

import sys
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.util.metrics import Counter, Gauge

_POSTS = Counter("smp_ray_posts", "posts by what became of them", tag_keys=("family", "status"))
_SECONDS = Counter("smp_ray_step_seconds", "seconds that workers spent in a step", tag_keys=("step",))
_RATE = Gauge("smp_ray_rows_per_second", "posts that a pass finishes a second, since all its workers have begun")
_GPU_MEMORY = Gauge("smp_ray_gpu_memory_bytes", "GPU memory that a step took at most in a batch", tag_keys=("step",))


def count_step(step: str, table: pa.Table, seconds: float, gpu_memory: int = 0) -> None:
    """A batch came through a step, a family or not: its time, bytes, and the statuses that a family gave."""
    tags = {"step": step}
    if seconds > 0:
        _SECONDS.inc(seconds, tags)
    if f"{step}_status" in table.column_names:
        for entry in pc.value_counts(table[f"{step}_status"].drop_null()).to_pylist():
            _POSTS.inc(entry["counts"], {"family": step, "status": entry["values"]})
    if gpu_memory > 0:
        _GPU_MEMORY.set(gpu_memory, tags)


def show_rate(rows_per_second: float) -> None:
    """How fast the pass is."""
    _RATE.set(rows_per_second)


def gpu_memory() -> int:
    """Bytes that torch holds of this process's GPU, 0 without one; the most of them counts anew from here."""
    if (cuda := _cuda()) is None:
        return 0
    cuda.reset_peak_memory_stats()
    return int(cuda.memory_reserved())


def most_gpu_memory() -> int:
    """Most bytes that torch held of this process's GPU since it was last asked what it holds."""
    cuda = _cuda()
    return 0 if cuda is None else int(cuda.max_memory_reserved())


def _cuda() -> Any:
    torch = sys.modules.get("torch")  # a worker without it has no GPU
    return torch.cuda if torch and torch.cuda.is_initialized() else None
