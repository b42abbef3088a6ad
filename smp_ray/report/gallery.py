"""Look at the posts: those at either end of a measure of each topic, and the largest errors."""

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset as ds

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
    labels = {"popularity": "popularity", "prediction": "predicted"}
    labels |= {name: measure.short for name, measure in inputs.measures.items()}
    described = _described(inputs, every)
    columns = ["kind", "post_id", "user_id", "title", *described, *(name for name in labels if name in every)]
    inputs.publish("gallery", every[columns])
    pictures = _thumbnails(inputs, every["row_id"].unique())
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in chosen}
    for post in every.to_dict("records"):
        numbers = {label: post.get(name) for name, label in labels.items()}
        known = [f"{label} {number(value, 2)}" for label, value in numbers.items() if not pd.isna(value)]
        descriptions = [post[name] for name in described if isinstance(post[name], str)]
        title = post["title"] if isinstance(post["title"], str) else ""
        found[post["kind"]].append(
            {
                "title": title.strip(), "picture": pictures.get(post["row_id"]), "descriptions": descriptions,
                "numbers": ", ".join(known), "id": post["post_id"],
            }
        )  # fmt: skip
    return found


def _choose(inputs: Inputs, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Posts of each kind, by the heading under which they stand."""
    kinds: dict[str, pd.DataFrame] = {}
    count = inputs.config.report.gallery_posts
    for name in inputs.speaking(inputs.measured(frame)):
        measure, known = inputs.measures[name], frame[frame[name].notna()]
        for heading, smallest in (
            (measure.largest or f"Largest {measure.label}", False),
            (measure.smallest or f"Smallest {measure.label}", True),
        ):
            ordered = known.sort_values([name, "row_id"], ascending=[smallest, True])
            kinds[heading] = ordered.drop_duplicates("title").head(count)
    if inputs.judged is not None:
        ordered = frame.assign(size=frame["error"].abs()).sort_values(["size", "row_id"], ascending=[False, True])
        kinds["Largest errors, predicted out of fold"] = ordered[ordered["size"].notna()].head(count)
    return kinds


def _thumbnails(inputs: Inputs, row_ids: np.ndarray) -> dict[int, str]:
    """A JPEG data URI of each post's image, where there is one that can be shown."""
    workspace, settings = inputs.workspace, inputs.config.features.images
    paths = [workspace.path(fragment.path) for fragment in inputs.posts.fragments]
    posts = ds.dataset(paths, format="parquet", filesystem=workspace.filesystem).scanner(
        ["row_id", "image_uri", "image_bytes"], pc.field("row_id").isin(row_ids), batch_size=_FEW, batch_readahead=1,
        fragment_readahead=1,
    )  # fmt: skip
    found = posts.to_table().to_pydict()
    stored = found["image_bytes"]
    lacking = [None if data is not None else uri for data, uri in zip(stored, found["image_uri"], strict=True)]
    fetched = [one.data for one in Fetcher(settings).fetch_all(lacking)]
    encoded = (data if data is not None else other for data, other in zip(stored, fetched, strict=True))
    shown = {
        row_id: _thumbnail(data, settings.max_pixels) for row_id, data in zip(found["row_id"], encoded, strict=True)
    }
    return {row_id: picture for row_id, picture in shown.items() if picture is not None}


def _thumbnail(data: bytes | None, max_pixels: int) -> str | None:
    if data is None:
        return None
    try:
        image = decode(data, max_pixels)
    except BadImage:
        return None
    image.thumbnail((_SIDE, _SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()


def _described(inputs: Inputs, every: pd.DataFrame) -> list[str]:
    """Give posts what a model says of their pictures; returns the column, none without such a family."""
    found = with_roles(inputs.store, DESCRIPTION)
    if found is None:
        return []
    family, (column,) = found
    texts = read_columns(inputs.workspace, inputs.store[family], [column], every["row_id"].unique())[column]
    every[column] = every["row_id"].map(dict(zip(every["row_id"].unique(), texts.to_pylist(), strict=True)))
    return [column]
