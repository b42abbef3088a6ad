"""What is measured: posts with real pictures or rendered ones, and models of the published sizes with random weights.

Speed does not depend on the values of the weights; random ones of the published architecture need no network.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jobs.bench.random_weights import write_random_captioner, write_random_clip, write_random_language_model
from smp_ray.demo.posts import make_posts


@dataclass(frozen=True)
class Case:
    """Some families of some posts.

    Attributes:
        posts: how many; of captions few, as one takes a second.
        wanted: the share of the limit's rate that the pass is to reach; `whole` says whether start-up counts.
    """

    families: tuple[str, ...]
    posts: int
    batch: int
    wanted: float
    whole: bool = False


CASES = {
    "clip": Case(("clip",), 2000, 16, 0.93),
    "perplexity": Case(("perplexity",), 3000, 64, 0.92),
    "caption": Case(("caption",), 96, 8, 0.95),
    "all": Case(("caption", "clip", "perplexity"), 300, 8, 0.92, whole=True),
}


def write_models(folder: Path, clip: str = "ViT-B-32") -> None:
    """BLIP-base, GPT-2 and a CLIP model as `<clip>.safetensors`, once."""
    if not (folder / f"{clip}.safetensors").exists():
        write_random_language_model(folder / "language_model")
        write_random_captioner(folder / "captioner")
        write_random_clip(folder / f"{clip}.safetensors", clip)


def sections(models: Path, case: Case) -> dict[str, Any]:
    """The config sections of the families; captions have 20 tokens, as the published model's do at most."""
    clip = {"model": "ViT-B-32", "pretrained": str(models / "ViT-B-32.safetensors")}
    found: dict[str, Any] = {
        "captioner": {"model": str(models / "captioner")},
        "clip": clip,
        "perplexity": {"model": str(models / "language_model")},
    }
    return {name: {**section, "batch_size": case.batch} for name, section in found.items()}


def write_posts(folder: Path, posts: int, given: Path | None) -> None:
    """`posts.csv` (id, image, title) and its pictures; no picture and no title twice, as equal ones are computed once.

    `given` is a table of real posts: image (relative to it), title, and perhaps other_captions, separated by " | ".
    Without it pictures are rendered, and titles those of the sample world.
    """
    folder.mkdir(parents=True)
    if given is None:
        bodies, titles = rendered(), [post.title.text for post in make_posts(posts, 0)]
    else:
        with given.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        bodies = [(given.parent / row["image"]).read_bytes() for row in rows]
        titles = [row["title"] for row in rows]
        titles += [title for row in rows for title in row.get("other_captions", "").split(" | ") if title]
    with (folder / "posts.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "image", "title"])
        for number, body, title in zip(range(posts), cycle(bodies), cycle(titles)):
            # Behind the end of the picture, where no decoder looks.
            (folder / f"{number:05d}.jpg").write_bytes(body + str(number).encode())
            table.writerow([f"p{number:05d}", f"{number:05d}.jpg", f"{title} {number}"])


def rendered() -> list[bytes]:
    """Ten pictures of about 100 KB."""
    found = []
    for seed in range(10):
        stream = io.BytesIO()
        coarse = np.random.default_rng(seed).integers(0, 255, (72, 96, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((768, 576), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=92)
        found.append(stream.getvalue())
    return found


def read_posts(folder: Path) -> tuple[list[Path], list[str]]:
    """Pictures and titles of what `write_posts` wrote."""
    with (folder / "posts.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [folder / row["image"] for row in rows], [row["title"] for row in rows]
