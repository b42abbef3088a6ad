"""Look at the posts: those at either end of a measure of each topic, and the largest errors."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from smp_ray.families.base import DESCRIPTION
from smp_ray.families.registry import with_roles
from smp_ray.fetch import Fetcher
from smp_ray.models.images import BadImage, decode
from smp_ray.report import page
from smp_ray.report.inputs import Inputs, records
from smp_ray.store.reader import read_columns

#: Longest side of a thumbnail, in pixels, and its JPEG quality.
_SIDE, _QUALITY = 160, 72
_SHOWN_TITLE = 240


def gallery(inputs: Inputs) -> page.Section:
    """The section with its thumbnails inside the page; its posts are published as `gallery.csv`."""
    section = page.Section("posts", "Look at the posts")
    frame = inputs.frame
    if inputs.predictions is not None:
        frame = frame.merge(inputs.predictions[["row_id", "prediction", "source"]], on="row_id", how="left")
    chosen = _choose(inputs, frame)
    if not chosen:
        section.add(page.absent("There are no measures or predictions by which to choose posts."))
        return section
    every = pd.concat([part.assign(kind=kind) for kind, part in chosen.items()], ignore_index=True)
    row_ids = every["row_id"].unique()
    labels = {"popularity": "popularity", "prediction": "predicted"}
    labels |= {name: measure.short for name, measure in inputs.measures.items()}
    described = _described(inputs, every, row_ids)
    columns = ["kind", "post_id", "user_id", "title", *described, *(name for name in labels if name in every)]
    inputs.publish("gallery", every[columns])
    section.add(
        page.numbers("The extremes of each measure, a text shown once. They are examples, not evidence.", "gallery"),
    )
    pictures = _thumbnails(inputs, row_ids)
    for kind in chosen:
        posts = records(every[every["kind"] == kind])
        cards = "\n".join(_card(post, pictures[post["row_id"]], labels, described) for post in posts)
        section.add(page.heading(kind), f'<div class="gallery">{cards}</div>')
    return section


def _choose(inputs: Inputs, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Posts of each kind, by the heading under which they stand."""
    count = inputs.config.report.gallery_posts
    kinds: dict[str, pd.DataFrame] = {}
    for name in inputs.speaking(inputs.measured(frame)):
        measure = inputs.measures[name]
        largest, smallest = f"Largest {measure.label}", f"Smallest {measure.label}"
        kinds[measure.largest or largest] = _extreme(frame, name, count, largest=True)
        kinds[measure.smallest or smallest] = _extreme(frame, name, count, largest=False)
    if inputs.judged is not None:
        errors = inputs.judged.assign(absolute=inputs.judged["error"].abs())
        worst = errors.sort_values(["absolute", "row_id"], ascending=[False, True]).head(count)
        place = frame.set_index("row_id").loc[worst["row_id"]].reset_index()
        kinds["Largest errors, predicted out of fold"] = place
    return kinds


def _extreme(frame: pd.DataFrame, column: str, count: int, largest: bool) -> pd.DataFrame:
    ordered = frame[frame[column].notna()].sort_values([column, "row_id"], ascending=[not largest, True])
    return ordered.drop_duplicates("title").head(count)


def _thumbnails(inputs: Inputs, row_ids: np.ndarray) -> dict[int, str | None]:
    """A JPEG data URI of each post's image; None where there is none that can be shown."""
    settings = inputs.config.features.images
    table = inputs.post_columns(row_ids, ["image_uri", "image_bytes"])
    stored, uris = table["image_bytes"].to_pylist(), table["image_uri"].to_pylist()
    lacking = [None if data is not None else uri for data, uri in zip(stored, uris, strict=True)]
    fetched = Fetcher(settings).fetch_all(lacking)
    found: dict[int, str | None] = {}
    for row_id, data, other in zip(row_ids, stored, fetched, strict=True):
        found[row_id] = _thumbnail(data if data is not None else other.data, settings.max_pixels)
    return found


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


def _described(inputs: Inputs, every: pd.DataFrame, row_ids: np.ndarray) -> list[str]:
    """Give posts what a model says of their pictures; returns the column, none without such a family."""
    found = with_roles(inputs.store, DESCRIPTION)
    if found is None:
        return []
    family, (column,) = found
    texts = read_columns(inputs.workspace, inputs.store[family], [column], row_ids)[column].to_pylist()
    every[column] = every["row_id"].map(dict(zip(row_ids, texts, strict=True)))
    return [column]


def _card(post: dict[str, Any], picture: str | None, labels: dict[str, str], described: list[str]) -> str:
    descriptions = [post[column] for column in described if isinstance(post[column], str)]
    title = post["title"] if isinstance(post["title"], str) and post["title"].strip() else "(no title)"
    shown = title if len(title) <= _SHOWN_TITLE else title[: _SHOWN_TITLE - 1] + "…"
    numbers = ", ".join(
        f"{label} {page.number(value, 2)}"
        for name, label in labels.items()
        if (value := post.get(name)) is not None and not pd.isna(value)
    )
    image = f'<img src="{picture}" alt="" loading="lazy">' if picture else '<div class="noimage">no image</div>'
    lines = [image, f'<div class="title">{escape(shown)}</div>']
    lines += [f'<div class="description">{escape(text)}</div>' for text in descriptions if text]
    lines.append(f"<div>{escape(numbers)}</div>")
    lines.append(f'<div class="note">post {escape(str(post["post_id"]))}</div>')
    return '<article class="post">' + "\n".join(lines) + "</article>"
