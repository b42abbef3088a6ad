"""The generator of the sample world: synthetic posts in the files and quirks of SMPD-Image (arXiv 2407.00556).

A post is written as soon as it is made, so memory does not grow with the number of posts. How a post arises is in
`smp_ray.demo.posts`, how its popularity does in `smp_ray.demo.popularity`. The truth (scene, kind of title, effects,
score) is kept beside the posts in `truth.jsonl`, for tests; no stage reads it.
"""

import io
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from smp_ray.demo import SYNTHETIC_NOTICE
from smp_ray.demo.posts import Post, make_posts
from smp_ray.demo.scenes import render, stream_rng

TABLES = ("text", "category", "temporalspatial_information", "user_data", "additional_information")


def write_world(root: Path, posts: int, seed: int, *, test_share: float = 0.1, size: int = 128) -> None:
    """Write `posts` posts as an SMPD-Image dataset into the new folder `root`, images `size` pixels square.

    The last `test_share` of the period is the test split: its labels stand only in the truth. The folder appears when
    it is complete. Raises FileExistsError when `root` already holds something, ValueError for senseless numbers.
    """
    if posts < 1 or seed < 0 or not 0 <= test_share < 1 or size < 16:
        raise ValueError(f"cannot write a world of posts={posts}, seed={seed}, test_share={test_share}, size={size}")
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty; a sample world is written into a new folder")
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "SYNTHETIC.txt").write_text(SYNTHETIC_NOTICE + "\n")
    with ExitStack() as stack:
        writers = {
            split: _SplitWriter(partial, split, stack) for split in (("train", "test") if test_share else ("train",))
        }
        truth = stack.enter_context((partial / "truth.jsonl").open("w", encoding="utf-8"))
        for post in make_posts(posts, seed, test_share):
            writers[post.split].write(post)
            truth.write(json.dumps(_truth(post)) + "\n")
            if post.has_image:
                _write_image(partial / post.image_path, post, seed, size)
    if root.exists():
        root.rmdir()
    partial.rename(root)


def _write_image(path: Path, post: Post, seed: int, size: int) -> None:
    rng = stream_rng("sample pictures", seed, post.index)
    buffer = io.BytesIO()
    render(post.scene, rng, size).save(buffer, "JPEG", quality=int(rng.integers(80, 93)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def _truth(post: Post) -> dict[str, Any]:
    return {
        "Pid": post.pid,
        "Uid": post.user.uid,
        "split": post.split,
        "scene": post.scene.as_dict(),
        "title_kind": post.title.kind,
        "quality": post.title.quality,
        "mismatch": round(post.title.mismatch, 4),
        "has_image": post.has_image,
        "effects": {part: round(value, 6) for part, value in post.effects.items()},
        "score": round(post.score, 6),
        "popularity": post.popularity,
    }


def _records(post: Post) -> dict[str, dict[str, str]]:
    """The post as SMPD-Image's five records; numbers are strings there."""
    latitude, longitude, accuracy = post.place
    category, subcategory, concept = post.category
    # No place is written as plain zeros.
    place = {"Latitude": f"{latitude:.10g}", "Longitude": f"{longitude:.10g}"}
    own = {
        "text": {"Title": post.title.text, "Mediatype": "photo", "Alltags": post.tags},
        "category": {"Category": category, "Subcategory": subcategory, "Concept": concept},
        "temporalspatial_information": {"Postdate": str(post.posted_at), **place, "Geoaccuracy": str(accuracy)},
        "user_data": post.user.fields,
        "additional_information": {"Pathalias": post.user.pathalias, "Ispublic": "1", "Mediastatus": "ready"},
    }
    return {table: {"Uid": post.user.uid, "Pid": post.pid, **own[table]} for table in TABLES}


class _SplitWriter:
    """The open files of one split; every JSON list grows record by record and is closed with the stack."""

    def __init__(self, root: Path, split: str, stack: ExitStack) -> None:
        folder = root / f"{split}_allmetadata_json"
        folder.mkdir()
        self.tables = {table: self._open(stack, folder / f"{split}_{table}.json") for table in TABLES}
        for file in self.tables.values():
            file.write("[")
            stack.callback(file.write, "\n]\n")
        self.paths = self._open(stack, root / f"{split}_img_filepath.txt")
        self.labels = self._open(stack, root / f"{split}_label.txt") if split == "train" else None
        self.separator = "\n"

    @staticmethod
    def _open(stack: ExitStack, path: Path) -> TextIO:
        return stack.enter_context(path.open("w", encoding="utf-8"))

    def write(self, post: Post) -> None:
        """Append the post to every file of its split."""
        for table, record in _records(post).items():
            self.tables[table].write(self.separator + json.dumps(record, ensure_ascii=False))
        self.separator = ",\n"
        self.paths.write(post.image_path + "\n")
        if self.labels is not None:
            self.labels.write(f"{post.popularity:.2f}\n")
