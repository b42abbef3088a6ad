"""Look at the posts: those at either end of a measure of each topic, and the largest errors."""

import base64
import contextlib
import io
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smp_ray.families.base import DESCRIPTION
from smp_ray.families.registry import with_roles
from smp_ray.fetch import Fetcher
from smp_ray.models.images import BadImage, decode
from smp_ray.report.inputs import Inputs
from smp_ray.report.wording import number
from smp_ray.store.reader import read_columns

#: Longest side of a thumbnail, in pixels, and its JPEG quality.
_SIDE, _QUALITY = 160, 72
#: Rows read at once where a row may hold an encoded image.
_FEW = 256


def gallery(inputs: Inputs) -> dict[str, list[dict[str, Any]]]:
    """Posts of each kind with their thumbnails, by heading; they are published as `gallery.csv`."""
    frame = inputs.frame
    if inputs.predictions is not None:
        frame = frame.merge(inputs.predictions[["row_id", "prediction", "error"]], on="row_id", how="left")
    chosen = _choose(inputs, frame)
    if not chosen:
        return {}
    every = pd.concat([part.assign(kind=kind) for kind, part in chosen.items()], ignore_index=True)
    described: tuple[str, ...] = ()
    if described_by := with_roles(inputs.store, DESCRIPTION):
        family, described = described_by
        texts = read_columns(inputs.workspace, inputs.store[family], described, every["row_id"].to_numpy())
        every = every.assign(**{name: texts[name].to_pylist() for name in described})
    labels = {"popularity": "popularity", "prediction": "predicted"}
    labels |= {name: measure.short for name, measure in inputs.measures.items()}
    labels = {name: label for name, label in labels.items() if name in every}
    inputs.publish("gallery", every[["kind", "post_id", "user_id", "title", *described, *labels]])
    pictures = _thumbnails(inputs, every.drop_duplicates("row_id"))
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in chosen}
    for post in every.to_dict("records"):
        known = [f"{label} {number(post[name], 2)}" for name, label in labels.items() if not pd.isna(post[name])]
        found[post["kind"]].append(
            {
                "title": post["title"].strip() if isinstance(post["title"], str) else "", "id": post["post_id"],
                "picture": pictures.get(post["row_id"]), "numbers": ", ".join(known),
                "descriptions": [post[name] for name in described if isinstance(post[name], str)],
            }
        )  # fmt: skip
    return found


def _choose(inputs: Inputs, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Posts of each kind, by the heading under which they stand; equal ones in the order of their row ids."""
    kinds: dict[str, pd.DataFrame] = {}
    frame, count = frame.sort_values("row_id"), inputs.config.report.gallery_posts
    for name in inputs.speaking(inputs.measured(frame)):
        measure, known = inputs.measures[name], frame.dropna(subset=[name])
        for heading, smallest in (
            (measure.largest or f"Largest {measure.label}", False),
            (measure.smallest or f"Smallest {measure.label}", True),
        ):
            ordered = known.sort_values(name, ascending=smallest, kind="stable")
            kinds[heading] = ordered.drop_duplicates("title").head(count)
    if inputs.judged is not None:
        ordered = frame.dropna(subset=["error"]).sort_values("error", key=abs, ascending=False, kind="stable")
        kinds["Largest errors, predicted out of fold"] = ordered.head(count)
    return kinds


def _thumbnails(inputs: Inputs, chosen: pd.DataFrame) -> dict[int, str]:
    """A JPEG data URI of each post's image, where there is one that can be shown."""
    settings = inputs.config.images
    posts = [post for file, part in chosen.groupby("file") for post in _pictures(inputs, int(str(file)), part)]
    fetched = Fetcher(settings).fetch_all([p["image_uri"] if p["image_bytes"] is None else None for p in posts])
    found = {}
    for post, other in zip(posts, fetched, strict=True):
        with contextlib.suppress(BadImage):
            image = decode(post["image_bytes"] or other.data or b"", settings.max_pixels)
            image.thumbnail((_SIDE, _SIDE))
            encoded = io.BytesIO()
            image.save(encoded, "JPEG", quality=_QUALITY, optimize=True)
            found[post["row_id"]] = "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()
    return found


def _pictures(inputs: Inputs, file: int, chosen: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """`row_id`, `image_uri` and `image_bytes` of posts of one file, of which only what holds them is read."""
    path, row_ids = inputs.workspace.path(inputs.posts.fragments[file].path), pa.array(chosen["row_id"])
    with pq.ParquetFile(path, filesystem=inputs.workspace.filesystem) as posts:
        for group in range(posts.num_row_groups):
            keys = posts.read_row_group(group, ["row_id"])
            if not pc.any(pc.is_in(keys["row_id"], value_set=row_ids)).as_py():
                continue
            for batch in posts.iter_batches(_FEW, [group], ["row_id", "image_uri", "image_bytes"]):
                yield from batch.filter(pc.is_in(batch["row_id"], value_set=row_ids)).to_pylist()
