"""Train the sample world's three small models and print their acceptance figures: 2 cores, under 30 minutes.

    python jobs/train_demo_models.py [--out FOLDER] [--quick]

Each model is saved as soon as it is trained. Ends with status 1 when a figure misses its threshold.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Threads that wait without spinning: on two shared cores, spinning makes a step several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from smp_ray.demo import MODELS, SYNTHETIC_NOTICE
from smp_ray.demo.evaluate import THRESHOLDS, below_threshold, evaluate
from smp_ray.demo.training.pool import make_pool
from smp_ray.demo.training.train_captioner import train_captioner
from smp_ray.demo.training.train_embedder import train_embedder
from smp_ray.demo.training.train_language_model import train_language_model

SETTINGS = {
    "seed": 0,
    "scenes": 20_000,
    "clip_steps": 1_000,
    "clip_batch": 128,
    "captioner_steps": 700,
    "captioner_batch": 64,
    "perplexity_titles": 60_000,
    "perplexity_steps": 1_200,
    "perplexity_batch": 64,
}
QUICK = {"scenes": 500, "clip_steps": 5, "captioner_steps": 5, "perplexity_titles": 2_000, "perplexity_steps": 5}
"""What --quick changes: a check that the job runs through, of no use as models."""


def main() -> int:
    """Train, evaluate, write `figures.json` beside the models; 0 when every threshold is reached."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=MODELS, help="folder of the three models")
    options.add_argument("--quick", action="store_true", help="a few steps only, to check that the job runs")
    chosen = options.parse_args()
    settings = {**SETTINGS, **(QUICK if chosen.quick else {})}
    torch.set_num_threads(2)
    started = time.perf_counter()
    train(chosen.out, settings)
    minutes = (time.perf_counter() - started) / 60
    figures = evaluate(chosen.out, scenes=100 if chosen.quick else 500)
    report = {"notice": SYNTHETIC_NOTICE, "settings": settings, "thresholds": THRESHOLDS, "figures": figures}
    (chosen.out / "figures.json").write_text(json.dumps(report, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name:32} {value:10.4f}" + (f"  at least {THRESHOLDS[name]}" if name in THRESHOLDS else ""))
    files = [file for file in chosen.out.rglob("*") if file.is_file()]
    for file in files:
        file.chmod(0o644)  # safetensors are written for their owner alone
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"trained in {minutes:.1f} minutes on {torch.get_num_threads()} threads, {size:.1f} MB in all")
    missed = below_threshold(figures)
    print("\n".join(missed) or "every threshold is reached")
    return 1 if missed else 0


def train(folder: Path, settings: dict[str, int]) -> None:
    """Train the language model, then CLIP, then the captioner from CLIP's vision tower."""
    seed = settings["seed"]
    titles, steps, batch = settings["perplexity_titles"], settings["perplexity_steps"], settings["perplexity_batch"]
    train_language_model(titles, steps, batch, seed, folder / "language_model")
    pool = make_pool(settings["scenes"], seed)
    print(f"{len(pool.scenes)} scenes rendered", flush=True)
    clip = train_embedder(pool, settings["clip_steps"], settings["clip_batch"], seed, folder / "embedder")
    captioner_steps, captioner_batch = settings["captioner_steps"], settings["captioner_batch"]
    train_captioner(pool, clip, captioner_steps, captioner_batch, seed, folder / "captioner")


if __name__ == "__main__":
    sys.exit(main())
