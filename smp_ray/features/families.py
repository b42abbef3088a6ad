"""From posts to feature columns: what one batch becomes, with a status for every post. No Ray in here.

Each step takes an Arrow table of posts with `need_<family>` flags and returns it with that family's columns. A post
that does not need a family gets nulls there, its status included; `smp_ray.features.store` reads a null status as
"this file says nothing about that family of that post".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from smp_ray.config import Family, FeaturesConfig
from smp_ray.errors import SmpRayError
from smp_ray.fetch import Fetched, Fetcher
from smp_ray.models.images import BadImage, content_hash, decode
from smp_ray.schema import BAD_IMAGE, ERROR, NO_IMAGE, NO_TEXT, OK, family_fields

logger = logging.getLogger(__name__)

#: Columns that the decode step adds for the model steps and that do not reach the store.
IMAGE_COLUMNS = ("image_status", "image_error", "image_hash", "caption_pixels", "clip_pixels")
#: A batch whose every computation fails, and which has at least this many of them, is a broken model, not bad data.
SYSTEMIC = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class PixelTransform(Protocol):
    """What a model does to a decoded image before its tensor leaves the CPU."""

    def pixels(self, image: Any) -> np.ndarray:
        """Uint8 array (height, width, 3)."""


def needed(table: pa.Table, family: Family) -> np.ndarray:
    """Boolean array (rows,): which posts of the batch need this family."""
    return np.asarray(table[f"need_{family}"].to_numpy(zero_copy_only=False), dtype=bool)


class DecodeStep:
    """Fetches and decodes each image once and applies the models' own transforms.

    Args:
        settings: limits for fetching and decoding.
        transforms: transform of each image family that is computed in this pass.
    """

    def __init__(self, settings: FeaturesConfig, transforms: dict[Family, PixelTransform]) -> None:
        self._settings = settings.images
        self._transforms = transforms
        self._fetcher = Fetcher(settings.images)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Replace `image_uri` and `image_bytes` by `IMAGE_COLUMNS`; pixels are the raw bytes of uint8 arrays."""
        wants = {family: needed(table, family) for family in self._transforms}
        wanted = np.any(list(wants.values()), axis=0)
        fetched = self._fetch(table, wanted)
        columns: dict[str, list[Any]] = {name: [None] * table.num_rows for name in IMAGE_COLUMNS}
        for row in np.flatnonzero(wanted):
            self._decode_row(int(row), fetched[row], {f: bool(want[row]) for f, want in wants.items()}, columns)
        out = table.drop_columns(["image_uri", "image_bytes"])
        for name, values in columns.items():
            kind = pa.large_binary() if name.endswith("pixels") else pa.string()
            out = out.append_column(name, pa.array(values, kind))
        return out

    def _fetch(self, table: pa.Table, wanted: np.ndarray) -> list[Fetched]:
        inline = table["image_bytes"].to_pylist()
        uris = table["image_uri"].to_pylist()
        asked = [uri if want and data is None else None for uri, data, want in zip(uris, inline, wanted, strict=True)]
        fetched = self._fetcher.fetch_all(asked)
        return [Fetched(data) if data is not None else got for data, got in zip(inline, fetched, strict=True)]

    def _decode_row(self, row: int, fetched: Fetched, wants: dict[Family, bool], columns: dict[str, list[Any]]) -> None:
        if fetched.data is None:
            columns["image_status"][row] = BAD_IMAGE if fetched.refused else NO_IMAGE
            columns["image_error"][row] = fetched.reason
            return
        try:
            image = decode(fetched.data, self._settings.max_pixels)
        except BadImage as error:
            columns["image_status"][row] = BAD_IMAGE
            columns["image_error"][row] = str(error)
            return
        columns["image_status"][row] = OK
        columns["image_hash"][row] = content_hash(fetched.data)
        for family, transform in self._transforms.items():
            if wants[family]:
                columns[f"{family}_pixels"][row] = transform.pixels(image).tobytes()


def compute(items: Sequence[Item], function: Callable[[list[Item]], Sequence[Result]]) -> list[Result | Exception]:
    """Apply a batch function; if it fails, apply it item by item so that one bad item costs only itself.

    Raises:
        Exception: the last one, where at least `SYSTEMIC` items were given and every single one failed.
    """
    if not items:
        return []
    try:
        return list(function(list(items)))
    except SmpRayError:
        raise
    except Exception as error:  # kept as the status of the post, or raised below
        if len(items) == 1:
            return [error]
        logger.warning("a batch of %d failed (%s); computing it one by one", len(items), _reason(error))
    results: list[Result | Exception] = [compute([item], function)[0] for item in items]
    failures = [result for result in results if isinstance(result, Exception)]
    if len(failures) == len(items) >= SYSTEMIC:
        raise failures[-1]
    return results


def compute_unique(
    keys: Sequence[str | None], items: Callable[[int], Item], function: Callable[[list[Item]], Sequence[Result]]
) -> list[Result | Exception | None]:
    """As `compute`, once for each distinct key; rows whose key is None get None."""
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        if key is not None:
            first.setdefault(key, row)
    results = dict(zip(first, compute([items(row) for row in first.values()], function), strict=True))
    return [None if key is None else results[key] for key in keys]


class PixelColumn:
    """Rows of a `…_pixels` column as uint8 arrays of one shape (height, width, 3), without copying."""

    def __init__(self, column: pa.ChunkedArray, size: tuple[int, int]) -> None:
        self._column = column
        self._shape = (*size, 3)

    def __getitem__(self, row: int) -> np.ndarray:
        return np.frombuffer(self._column[row].as_buffer(), dtype=np.uint8).reshape(self._shape)


def caption_step(table: pa.Table, captioner: Any, size: tuple[int, int]) -> pa.Table:
    """Add the caption family. A caption already in the table (from the store) is kept where none is needed."""
    need = needed(table, "caption")
    image_status = table["image_status"].to_pylist()
    hashes = table["image_hash"].to_pylist()
    pixels = PixelColumn(table["caption_pixels"], size)
    keys = [
        hashed if want and status == OK else None
        for hashed, want, status in zip(hashes, need, image_status, strict=True)
    ]
    results = compute_unique(keys, pixels.__getitem__, lambda rows: captioner.caption(np.stack(rows)))
    captions = table["caption"].to_pylist()
    statuses: list[str | None] = [None] * table.num_rows
    errors: list[str | None] = [None] * table.num_rows
    for row in np.flatnonzero(need):
        result = results[row]
        captions[row] = result if isinstance(result, str) else None
        statuses[row], errors[row] = _image_verdict(image_status[row], table["image_error"][int(row)].as_py(), result)
    out = table.drop_columns(["caption", "caption_pixels"])
    return _append(out, "caption", 0, [captions, statuses, errors])


def clip_step(table: pa.Table, embedder: Any, size: tuple[int, int]) -> pa.Table:
    """Add the clip family: unit vectors of image, title and caption and their cosine similarities."""
    need = needed(table, "clip")
    image_status = table["image_status"].to_pylist()
    hashes = table["image_hash"].to_pylist()
    pixels = PixelColumn(table["clip_pixels"], size)
    keys = [
        hashed if want and status == OK else None
        for hashed, want, status in zip(hashes, need, image_status, strict=True)
    ]
    images = compute_unique(keys, pixels.__getitem__, lambda rows: embedder.embed_images(np.stack(rows)))
    titles, captions = ([_text(value) for value in table[name].to_pylist()] for name in ("title", "caption"))
    texts = [text if want else None for text, want in zip(titles + captions, [*need, *need], strict=True)]
    embedded = compute_unique(texts, lambda row: texts[row] or "", embedder.embed_texts)
    title_vectors, caption_vectors = embedded[: table.num_rows], embedded[table.num_rows :]

    statuses: list[str | None] = [None] * table.num_rows
    errors: list[str | None] = [None] * table.num_rows
    for row in np.flatnonzero(need):
        statuses[row], errors[row] = _image_verdict(
            image_status[row], table["image_error"][int(row)].as_py(), images[row]
        )
        failed = next((e for e in (title_vectors[row], caption_vectors[row]) if isinstance(e, Exception)), None)
        if failed is not None and statuses[row] != ERROR:
            statuses[row], errors[row] = ERROR, f"text: {_reason(failed)}"
    vectors = [_vectors(values, embedder.width) for values in (images, title_vectors, caption_vectors)]
    image, title, caption = vectors
    similarities = [_cosine(title, caption), _cosine(image, title), _cosine(image, caption)]
    stored = [_vector_column(values) for values in vectors]
    out = table.drop_columns(["clip_pixels"])
    return _append(out, "clip", embedder.width, [*stored, *similarities, statuses, errors])


def perplexity_step(table: pa.Table, scorer: Any) -> pa.Table:
    """Add the perplexity family: exp of the mean negative log-likelihood of the title's tokens."""
    need = needed(table, "perplexity")
    titles = [_text(value) if want else None for value, want in zip(table["title"].to_pylist(), need, strict=True)]
    results = compute_unique(
        titles, lambda row: titles[row] or "", lambda texts: list(zip(*scorer.score(texts), strict=True))
    )
    columns: list[list[Any]] = [[None] * table.num_rows for _ in range(5)]
    for row in np.flatnonzero(need):
        result = results[row]
        if isinstance(result, Exception):
            values: tuple[Any, ...] = (None, None, None, ERROR, _reason(result))
        elif result is None or result[1] == 0:
            values = (None, None, None, NO_TEXT, "the title is empty" if result is None else "the title has no tokens")
        else:
            nll, count = float(result[0]), int(result[1])
            values = (float(np.exp(np.float64(nll))), nll, count, OK, None)
        for column, value in zip(columns, values, strict=True):
            column[row] = value
    return _append(table, "perplexity", 0, columns)


def _text(value: str | None) -> str | None:
    return value if value is not None and value.strip() else None


def _image_verdict(status: str, reason: str | None, result: object) -> tuple[str, str | None]:
    if status != OK:
        return status, reason
    if isinstance(result, Exception):
        return ERROR, _reason(result)
    return OK, None


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _vectors(values: Sequence[Any], width: int) -> np.ndarray:
    """Float32 (rows, width); NaN where there is no vector."""
    out = np.full((len(values), width), np.nan, dtype=np.float32)
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, Exception):
            out[row] = value
    return out


def _vector_column(vectors: np.ndarray) -> pa.Array:
    """Fixed-size list of float16, null where the row is NaN."""
    missing = np.isnan(vectors[:, 0]) if len(vectors) else np.zeros(0, dtype=bool)
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float16).ravel(), pa.float16())
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=pa.array(missing))


def _cosine(left: np.ndarray, right: np.ndarray) -> pa.Array:
    """Cosine of unit vectors, from float32, clipped to [-1, 1] against rounding; null where either is missing."""
    values = np.einsum("ij,ij->i", left, right, dtype=np.float64)
    return pa.array(np.clip(values, -1, 1).astype(np.float32), pa.float32(), mask=np.isnan(values))


def _append(table: pa.Table, family: Family, width: int, values: list[Any]) -> pa.Table:
    for field, column in zip(family_fields(family, width), values, strict=True):
        array = column if isinstance(column, pa.Array) else pa.array(column, field.type)
        table = table.append_column(field, array)
    return table
