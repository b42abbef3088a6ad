"""Look at the posts: the most and least consistent, the most and least perplexing, and the largest errors."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from smp_ray.fetch import Fetcher
from smp_ray.models.images import BadImage, decode
from smp_ray.report import page
from smp_ray.report.inputs import SIMILARITIES, Inputs, records

#: Longest side of a thumbnail, in pixels, and its JPEG quality.
_SIDE, _QUALITY = 160, 72
_SHOWN_TITLE = 240
_NAMES = {
    "popularity": "popularity", "prediction": "predicted", "similarity_title_caption": "title-caption",
    "similarity_image_title": "image-title", "similarity_image_caption": "image-caption",
    "title_perplexity": "perplexity",
}  # fmt: skip


def gallery(inputs: Inputs) -> page.Section:
    """The section with its thumbnails inside the page; its posts are published as `gallery.csv`."""
    section = page.Section("posts", "Look at the posts")
    frame = inputs.frame
    if inputs.predictions is not None:
        frame = frame.merge(inputs.predictions[["row_id", "prediction", "source"]], on="row_id", how="left")
    chosen = _choose(inputs, frame)
    if not chosen:
        section.add(page.absent("There are no similarities, perplexities or predictions by which to choose posts."))
        return section
    every = pd.concat([part.assign(kind=kind) for kind, part in chosen.items()], ignore_index=True)
    row_ids = every["row_id"].unique()
    captions = inputs.family_columns("caption", ["caption"], row_ids)
    caption_of = {} if captions is None else dict(zip(row_ids, captions["caption"].to_pylist(), strict=True))
    every["caption"] = every["row_id"].map(caption_of)
    columns = ["kind", "post_id", "user_id", "title", "caption", *(name for name in _NAMES if name in every)]
    inputs.publish("gallery", every[columns])
    section.add(
        page.numbers("The extremes of each measure, a text shown once. They are examples, not evidence.", "gallery"),
    )
    pictures = _thumbnails(inputs, row_ids)
    for kind in chosen:
        posts = records(every[every["kind"] == kind])
        cards = "\n".join(_card(post, pictures[post["row_id"]]) for post in posts)
        section.add(page.heading(kind), f'<div class="gallery">{cards}</div>')
    return section


def _choose(inputs: Inputs, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Posts of each kind, by the heading under which they stand."""
    count = inputs.config.report.gallery_posts
    kinds: dict[str, pd.DataFrame] = {}
    measure = next((name for name in SIMILARITIES if name in frame and frame[name].notna().any()), None)
    if measure is not None:
        pair = _NAMES[measure].replace("-", " and ")
        kinds[f"Most consistent {pair}"] = _extreme(frame, measure, count, largest=True)
        kinds[f"Least consistent {pair}"] = _extreme(frame, measure, count, largest=False)
    if "title_perplexity" in frame and frame["title_perplexity"].notna().any():
        kinds["Most perplexing titles"] = _extreme(frame, "title_perplexity", count, largest=True)
        kinds["Least perplexing titles"] = _extreme(frame, "title_perplexity", count, largest=False)
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


def _card(post: dict[str, Any], picture: str | None) -> str:
    caption = post["caption"] if isinstance(post["caption"], str) else None
    title = post["title"] if isinstance(post["title"], str) and post["title"].strip() else "(no title)"
    shown = title if len(title) <= _SHOWN_TITLE else title[: _SHOWN_TITLE - 1] + "…"
    numbers = ", ".join(
        f"{label} {page.number(value, 2)}"
        for name, label in _NAMES.items()
        if (value := post.get(name)) is not None and not pd.isna(value)
    )
    image = f'<img src="{picture}" alt="" loading="lazy">' if picture else '<div class="noimage">no image</div>'
    lines = [image, f'<div class="title">{escape(shown)}</div>']
    if caption:
        lines.append(f'<div class="caption">{escape(caption)}</div>')
    lines.append(f"<div>{escape(numbers)}</div>")
    lines.append(f'<div class="note">post {escape(str(post["post_id"]))}</div>')
    return '<article class="post">' + "\n".join(lines) + "</article>"
