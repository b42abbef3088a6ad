"""A small table of posts with a text alone, what is learned from it, and its file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from smp_ray.config import Config, build_config

NAMES = {
    "post_id": "id", "user_id": "user", "title": "title", "popularity": "label", "posted_at": "when", "split": "split",
    "user_photo_count": "photos",
}  # fmt: skip


def rows(count: int, first: int = 0, label: bool = True) -> list[dict[str, Any]]:
    rng = np.random.default_rng(first)
    return [
        {
            "id": f"p{first + n}", "user": f"u{rng.integers(12)}", "title": f"{'good ' * rng.integers(4)}boat {n}",
            "label": round(rng.normal() + n % 4, 3) if label else "", "when": 1_600_000_000 + 3600 * (first + n),
            "split": "train" if label else "test", "photos": int(rng.integers(2000)),
        }
        for n in range(count)
    ]  # fmt: skip


def write_posts(path: Path, posts: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, posts[0])
        writer.writeheader()
        writer.writerows(posts)
    return path


def config(folder: Path, posts: list[dict[str, Any]], kind: str = "user", **training: Any) -> Config:
    tune = {"trials": 2, "max_rounds": 20, "max_concurrent": 1}
    path = write_posts(folder / "posts.csv", posts)
    return build_config({
        "workspace": str(folder / "run"),
        "source": {"kind": "table", "path": str(path), "columns": NAMES},
        "features": {"families": ["perplexity"]},
        "training": {"split": {"folds": 3, "kind": kind}, "tune": tune, "baselines": ["mean"], **training},
    })  # fmt: skip
