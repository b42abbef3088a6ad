"""Speed side by side in one run: the Ray pass against one bare process, batched and one post at a time.

    python jobs/benchmark.py --images FOLDER

ViT-B-32 with random weights, from image files to Parquet. Each contender runs in a process of its own, in turn, three
rounds; the median counts. Rates are steady states: loading and the first batch are left out and shown apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from smp_ray.families.clip import ClipSettings

ROUNDS = 3
#: Images a forward pass: the best of 4 to 64 for each contender on two cores with AVX-512.
BARE_BATCH, RAY_BATCH = 32, 10


def main() -> None:
    """Run all contenders and print their medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path, help="folder of .jpg files")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--contender", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        print(json.dumps(CONTENDERS[given.contender](given.images, given.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="smp_ray_benchmark_") as folder:
        compare(given.images, Path(folder), given.rounds)


def compare(images: Path, folder: Path, rounds: int) -> None:
    """Let the contenders run in turn and print the table."""
    import open_clip
    from safetensors.torch import save_file

    # Speed does not depend on the values of the weights, so random ones do.
    weights = open_clip.create_model("ViT-B-32", pretrained=None).state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "weights.safetensors")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        for name in CONTENDERS:
            runs[name].append(_run_apart(name, images, folder))
            last = runs[name][-1]
            print(
                f"round {number + 1}: {name:<28} {last['rate']:6.2f} images/s, first batch after {last['first']:.1f} s",
                flush=True,
            )
    rates = {name: statistics.median(run["rate"] for run in found) for name, found in runs.items()}
    first = statistics.median(run["first"] for run in runs["ray"])
    print(f"\nmedian of {rounds}, {len(_files(images))} images, {os.cpu_count()} cores")
    for name, rate in rates.items():
        print(f"  {name:<28} {rate:6.2f} images/s")
    print(f"ray against the bare process:    {rates['ray'] / rates['bare']:.2f} (wanted: at least 1.10)")
    print(f"ray against one post at a time:  {rates['ray'] / rates['one_at_a_time']:.2f} (wanted: at least 1.60)")
    print(f"ray, start to first batch:       {first:.1f} s (wanted: at most 20)")


def _run_apart(name: str, images: Path, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--contender", name, "--images", str(images), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _files(images: Path) -> list[Path]:
    return sorted(images.glob("*.jpg"))


def _clip(folder: Path) -> ClipSettings:
    return ClipSettings(model="ViT-B-32", pretrained=str(folder / "weights.safetensors"), batch_size=RAY_BATCH)


def bare(images: Path, folder: Path) -> dict[str, float]:
    """One process, two torch threads: decode, transform, forward in batches."""
    return _bare(images, folder, BARE_BATCH)


def one_at_a_time(images: Path, folder: Path) -> dict[str, float]:
    """One process, two torch threads, one post after the other."""
    return _bare(images, folder, 1)


def _bare(images: Path, folder: Path, batch: int) -> dict[str, float]:
    began = time.perf_counter()
    import open_clip
    import torch
    from PIL import Image

    torch.set_num_threads(2)
    settings = _clip(folder)
    model, _, preprocess = open_clip.create_model_and_transforms(settings.model, pretrained=settings.pretrained)
    model.eval()
    files = _files(images)
    ends: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(files), batch):
            pixels = torch.stack([preprocess(Image.open(path).convert("RGB")) for path in files[start : start + batch]])
            torch.nn.functional.normalize(model.encode_image(pixels), dim=-1).numpy()
            ends.append(time.perf_counter())
    return {"rate": (len(files) - batch) / (ends[-1] - ends[0]), "first": ends[0] - began}


def ray_pass(images: Path, folder: Path) -> dict[str, float]:
    """The features stage as `smp-ray features` runs it, into a fresh workspace."""
    import pandas as pd

    from smp_ray.config import build_config
    from smp_ray.features.store_stage import stored
    from smp_ray.pipeline import open_run, run_stages
    from smp_ray.ray_session import ray_session

    with tempfile.TemporaryDirectory(dir=folder) as workspace:
        table = Path(workspace) / "posts.csv"
        names = [path.name for path in _files(images)]
        pd.DataFrame({"id": names, "image": names}).to_csv(table, index=False)
        raw: dict[str, Any] = {
            "workspace": str(Path(workspace) / "run"),
            "source": {
                "kind": "table",
                "path": str(table),
                "columns": {"post_id": "id", "image": "image"},
                "image_root": str(images.resolve()),
            },
            "features": {"families": ["clip"], "clip": _clip(folder).model_dump(), "rows_per_block": 4 * RAY_BATCH},
        }
        config = build_config(raw)
        with ray_session(config.ray) as session:
            run = open_run(config, session)
            run_stages(run, ["features"])
        (manifest,) = stored(run).values()
        stats = manifest.details["last_pass"]
        return {"rate": stats["rows_per_second_steady"], "first": stats["first_batch_seconds"]}


CONTENDERS = {"bare": bare, "one_at_a_time": one_at_a_time, "ray": ray_pass}

if __name__ == "__main__":
    main()
