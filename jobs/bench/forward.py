"""The models alone on one device, without Ray: batch sizes, share of the device's matrix rate, decoding that feeds it.

    python -m jobs.bench.forward                     # on the GPU where there is one, else on a CPU
    python -m jobs.bench.forward --arithmetic        # no card: what the operations of a post say of some cards

BLIP-base, ViT-L-14 and GPT-2 with random weights, by the families' own classes. *ready*: inputs lie in memory. *fed*:
pictures are decoded and resized by `--decoders` processes meanwhile, as a pass has it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jobs.bench.cases import read_posts, write_models, write_posts
from smp_ray.families.base import IMAGE
from smp_ray.families.registry import find
from smp_ray.models.images import decode

#: Dense peaks of published data sheets, 10^12 operations a second: float16, bfloat16 and float32 (without TF32). A T4
#: has no bfloat16 and computes it in float32.
CARDS = {
    "T4": (65, 8.1, 8.1), "L4": (121, 121, 30.3), "A10G": (70, 70, 35), "A100": (312, 312, 19.5),
    "H100 SXM": (989, 989, 67),
}  # fmt: skip
_DTYPES = ("float16", "bfloat16", "float32")
#: What of a peak such models reach, as assumed in the arithmetic.
ASSUMED = 0.35
SIZES = {"cpu": (4, 8, 16, 32), "cuda": (16, 32, 64, 128, 256, 512)}
#: Of each size so many calls, after one that is not counted.
CALLS = 4
#: Batches of the fed rate, the first of which is not counted.
FED = 7


def main() -> None:
    """Measure each model, or count, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arithmetic", action="store_true")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--posts", type=Path, help="table of real posts: image, title; default: rendered ones")
    parser.add_argument("--sizes", type=int, nargs="+", help="batch sizes that are tried")
    parser.add_argument("--threads", type=int, help="torch threads on a CPU")
    parser.add_argument("--decoders", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--out", type=Path, default=Path("runs/forward"))
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() and not given.arithmetic else "cpu"
    sizes, posts = given.sizes or SIZES[device], given.out / "posts"
    shutil.rmtree(posts, ignore_errors=True)
    write_posts(posts, max(17, *sizes), given.posts)
    write_models(given.out / "models", "ViT-L-14")
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if device == "cuda" else "CPU", "models": {}}
    for name in given.models:
        model = Loaded(name, given.out / "models", posts, device, 1 if given.arithmetic else given.threads)
        took: dict[str, Any] = {"operations": model.operations(), "decoding": model.decoding()}
        took["gpu_dtype"] = model.gpu_dtype
        if not given.arithmetic:
            peak = matrix_rate(device, model.dtype)
            took |= model.measured(sizes, given.decoders)
            took |= {"share": took["ready"] * took["operations"] / peak, "matrix_rate": peak}
        found["models"][name] = took
        print(line(name, took), flush=True)
    (given.out / "forward.json").write_text(json.dumps(found, indent=1))
    if given.arithmetic:
        print(arithmetic(found["models"]))


def _captioner(folder: Path) -> tuple[str, dict[str, Any]]:
    return "caption", {"model": str(folder / "captioner")}


def _clip(folder: Path) -> tuple[str, dict[str, Any]]:
    return "clip", {"model": "ViT-L-14", "pretrained": str(folder / "ViT-L-14.safetensors")}


def _perplexity(folder: Path) -> tuple[str, dict[str, Any]]:
    return "perplexity", {"model": str(folder / "language_model")}


#: Family and section of each model.
MODELS: dict[str, Callable[[Path], tuple[str, dict[str, Any]]]] = {
    "BLIP-base": _captioner, "ViT-L-14": _clip, "GPT-2": _perplexity,
}  # fmt: skip


class Loaded:
    """A family's model on a device, and the posts that it computes."""

    def __init__(self, name: str, models: Path, posts: Path, device: str, threads: int | None) -> None:
        family, section = MODELS[name](models)
        self._family, self.device, self._threads = find(family), device, threads
        self.gpu_dtype = self._family.gpu_dtype
        self.dtype = self.gpu_dtype if device == "cuda" else "float32"
        self._section = {**section, "dtype": self.dtype}
        self._pictures, self._titles = read_posts(posts)
        self._model = self._loaded(1)

    def _loaded(self, batch: int) -> Any:
        return self._family(self._family.Settings(**self._section, batch_size=batch), self.device, self._threads)

    def operations(self) -> float:
        """Floating-point operations of one post (a multiplication and an addition are two)."""
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # neither its attention nor a fused one is counted
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            self._compute(self._model, self._prepared(1))
        torch.backends.mha.set_fastpath_enabled(fast)
        return float(counter.get_total_flops())

    def decoding(self) -> float:
        """Seconds of one core for one picture from its bytes to the model's input; 0 where it reads none."""
        if IMAGE not in self._family.reads:
            return 0.0
        read = [(path, json.dumps(self._section), self._family.name) for path in self._pictures[:17]]
        prepared(read[0])
        began = time.perf_counter()
        for one in read[1:]:
            prepared(one)
        return (time.perf_counter() - began) / (len(read) - 1)

    def measured(self, sizes: Sequence[int], decoders: int) -> dict[str, Any]:
        """Posts/s of each batch size with inputs ready; at the best of them fed by some processes that decode."""
        rates = {}
        for size in sizes:
            model, inputs = self._loaded(size), self._prepared(size)
            self._compute(model, inputs)
            times = []
            for _ in range(CALLS):
                began = time.perf_counter()
                self._compute(model, inputs)
                times.append(time.perf_counter() - began)
            rates[size] = size / statistics.median(times)
        best = max(rates, key=lambda size: rates[size])
        ready = rates[best]
        fed = self._fed(best, decoders) if IMAGE in self._family.reads else ready
        return {"rates": rates, "batch": best, "ready": ready, "fed": fed, "decoders": decoders}

    def _fed(self, size: int, decoders: int) -> float:
        """Posts/s where other processes prepare the pictures meanwhile."""
        model, titles, section = self._loaded(size), cycle(self._titles), json.dumps(self._section)
        with ProcessPoolExecutor(decoders, multiprocessing.get_context("spawn")) as pool:
            given = [(path, section, self._family.name) for path in islice(cycle(self._pictures), FED * size)]
            pictures = pool.map(prepared, given, chunksize=4)
            began, done = 0.0, 0
            while batch := list(islice(pictures, size)):
                self._compute(model, (batch, list(islice(titles, size))))
                done += size if began else 0
                began = began or time.perf_counter()
            return done / (time.perf_counter() - began) if done else 0.0

    def _prepared(self, size: int) -> tuple[list[Any], list[str]]:
        pictures: list[Any] = []
        if IMAGE in self._family.reads:
            section = json.dumps(self._section)
            pictures = [prepared((path, section, self._family.name)) for path in self._pictures[:size]]
        return pictures, self._titles[:size]

    def _compute(self, model: Any, inputs: tuple[list[Any], list[str]]) -> None:
        pictures, titles = inputs
        given = {IMAGE: pictures, "title": titles}
        model.compute(*(given.get(name, [None] * len(titles)) for name in self._family.reads))


@lru_cache(maxsize=4)
def _transform(section: str, family: str) -> Any:
    found = find(family)
    return found.transform(found.Settings(**json.loads(section)))


def prepared(given: tuple[Path, str, str]) -> Any:
    """A picture as a family's input, from its path; for a process that only decodes."""
    path, section, family = given
    return _transform(section, family).pixels(decode(path.read_bytes(), 10**8))


def matrix_rate(device: str, dtype: str) -> float:
    """Operations/s of a product of two square matrices on the device, the best of some."""
    side = 8192 if device == "cuda" else 2048
    one = torch.randn(side, side, device=device, dtype=getattr(torch, dtype))
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        float((one @ one)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def line(name: str, took: dict[str, Any]) -> str:
    """What was found of a model, in words."""
    said = f"{name}: {took['operations'] / 1e9:.1f} G operations a post, {1000 * took['decoding']:.1f} ms of decoding"
    if "ready" not in took:
        return said
    rates = ", ".join(f"{size}: {rate:.1f}" for size, rate in took["rates"].items())
    return (
        f"{said}; posts/s by batch {rates}; fed by {took['decoders']} processes {took['fed']:.1f}; "
        f"{took['share']:.0%} of {took['matrix_rate'] / 1e12:.2f} T operations/s; "
        f"{took['ready'] * took['decoding']:.1f} cores of decoding keep it fed"
    )


def arithmetic(models: dict[str, Any]) -> str:
    """Posts/s of some cards, and cores that decode for them: not measured, as a table in Markdown."""
    lines = [f"By arithmetic, not measured: {ASSUMED:.0%} of a card's published peak.", ""]
    lines += [f"| model | {' | '.join(CARDS)} |", f"| --- |{' --- |' * len(CARDS)}"]
    for name, took in models.items():
        kind = _DTYPES.index(took["gpu_dtype"])
        rates = [ASSUMED * peaks[kind] * 1e12 / took["operations"] for peaks in CARDS.values()]
        cells = [f"{rate:,.0f}/s, {rate * took['decoding']:.1f} cores" for rate in rates]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
