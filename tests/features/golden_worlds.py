"""The three worlds whose features are on record: sample posts, real photographs of odd kinds, real video posts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

FAMILIES = ["caption", "clip", "perplexity"]


def sample() -> dict[str, Any]:
    """300 posts of the sample world."""
    return {"kind": "demo", "posts": 300}


def photographs(source: Path, folder: Path) -> dict[str, Any]:
    """The first 40 photographs, every second one in another kind of file, one broken and one missing."""
    posts = pd.read_csv(source / "posts.csv").head(40)
    (folder / "images").mkdir(parents=True)
    posts["image"] = [_odd(place, source / name, folder) for place, name in enumerate(posts["image"])]
    posts[["photo_id", "image", "title"]].to_csv(folder / "posts.csv", index=False)
    columns = {"post_id": "photo_id", "title": "title", "image": "image"}
    return {"kind": "table", "path": str(folder / "posts.csv"), "columns": columns}


def _odd(place: int, source: Path, folder: Path) -> str:
    image, stem = Image.open(source), f"images/{place:02d}"
    if place % 8 == 1:
        name = f"{stem}.jpg"
        image.convert("CMYK").save(folder / name)
    elif place % 8 == 2:
        name = f"{stem}.png"
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(folder / name)
    elif place % 8 == 3:
        name = f"{stem}.gif"
        image.save(folder / name, save_all=True, append_images=[image.rotate(90)])
    elif place % 8 == 4:
        name, exif = f"{stem}.jpg", Image.Exif()
        exif[0x0112] = 6
        image.save(folder / name, exif=exif)
    elif place % 8 == 5:
        name, veiled = f"{stem}.png", image.convert("RGBA")
        veiled.putalpha(128)
        veiled.save(folder / name)
    elif place == 6:
        name = f"{stem}.jpg"
        (folder / name).write_bytes(source.read_bytes()[:3000])
    elif place == 14:
        name = f"{stem}.jpg"  # not there
    elif place in (22, 30, 38):
        name = {22: f"{stem}.png", 30: f"{stem}.webp", 38: f"{stem}.png"}[place]
        odd = {22: image.crop((0, 0, 1, 1)), 30: image, 38: image.convert("L")}[place]
        odd.save(folder / name)
    else:
        name = f"{stem}.jpg"
        shutil.copy(source, folder / name)
    return name


def videos(source: Path, folder: Path) -> dict[str, Any]:
    """The first 200 video posts."""
    folder.mkdir(parents=True)
    for name in ("posts", "users", "videos", "popularity"):
        lines = (source / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        kept = lines[:200] if name == "posts" else lines
        (folder / f"{name}.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    return {"kind": "smpd_video", "path": str(folder)}
