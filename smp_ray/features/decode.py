"""Fetching and decoding each image once, and giving it to each family's own transform. No Ray in here."""

from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.config import ImagesConfig
from smp_ray.errors import FamilyError, SmpRayError, UnreachableError
from smp_ray.families.base import ImageTransform
from smp_ray.features.compute import needed, reason
from smp_ray.fetch import Answers, Fetcher
from smp_ray.models.images import BadImage, decode
from smp_ray.schema import BAD_IMAGE, ERROR, KILLED, OK
from smp_ray.store.manifest import content_of

#: Pictures that are handed on together, as soon as they are there.
TOGETHER = 16


class FetchStep:
    """Fetches pictures, many at once; posts are handed on when theirs are there, whatever others wait for."""

    def __init__(self, images: ImagesConfig, families: Sequence[str]) -> None:
        """`families` are those that look at pictures."""
        self._families = families
        self._fetcher = Fetcher(images)
        self._answers = Answers(images.stop_after_unreachable)
        self._lock = Lock()

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Posts with `image_bytes`, or `image_status` and `image_error`.

        Raises:
            UnreachableError: too many of the last pictures could not be had for now.
        """
        wanted = np.any([needed(table, family) for family in self._families], axis=0)
        inline = table["image_bytes"].is_valid().to_numpy()
        places = np.flatnonzero(wanted & ~inline)
        rest = np.flatnonzero(~wanted | inline)
        nothing = pa.nulls(len(rest), pa.string())
        yield _with_pictures(table.take(pa.array(rest)), table["image_bytes"].take(pa.array(rest)), nothing, nothing)
        uris = table["image_uri"].take(pa.array(places)).to_pylist()
        here: list[int] = []
        data: list[bytes | None] = []
        verdicts: list[tuple[str | None, str | None]] = []
        for number, (place, fetched) in enumerate(self._fetcher.fetch(uris), start=1):
            with self._lock:
                self._answers.note(fetched)
            here.append(int(places[place]))
            data.append(fetched.data)
            verdicts.append((None, None) if fetched.status == OK else (fetched.status, fetched.reason))
            if len(here) == TOGETHER or number == len(uris):
                with self._lock:
                    if (why := self._answers.stop()) is not None:
                        raise UnreachableError(why)
                columns = [pa.array([verdict[side] for verdict in verdicts], pa.string()) for side in range(2)]
                yield _with_pictures(table.take(pa.array(here)), pa.array(data, pa.large_binary()), *columns)
                here, data, verdicts = [], [], []


def _with_pictures(table: pa.Table, data: Any, status: Any, error: Any) -> pa.Table:
    table = table.set_column(table.column_names.index("image_bytes"), "image_bytes", data)
    return table.append_column("image_status", status).append_column("image_error", error)


class DecodeStep:
    """Decodes each image once and applies the transform of each image family of the pass; fetches what nobody has."""

    def __init__(self, settings: ImagesConfig, transforms: Mapping[str, ImageTransform]) -> None:
        self._settings = settings
        self._transforms = transforms
        self._fetch = FetchStep(settings, list(transforms))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Replace the image columns by `image_status`, `image_error`, `image_hash` and a `<family>_input` each.

        Inputs are the raw bytes of the transform's arrays; `<family>_input_error` says where a transform failed. A
        table with `image_status` and `image_error` was fetched before; another comes back in another order.

        Raises:
            UnreachableError: too many of the last pictures could not be had for now.
        """
        if "image_status" not in table.column_names:
            table = pa.concat_tables(self._fetch(table))
        wants = {family: needed(table, family) for family in self._transforms}
        rows: list[dict[str, Any]] = [{} for _ in range(table.num_rows)]
        statuses, errors = (table[f"image_{name}"].to_pylist() for name in ("status", "error"))
        for row in np.flatnonzero(np.any(list(wants.values()), axis=0)).tolist():
            data = table["image_bytes"][row].as_py()
            if data is None:
                rows[row] = {"image_status": statuses[row], "image_error": errors[row]}
            else:
                rows[row] = self._decoded(data, [family for family, want in wants.items() if want[row]])
        return self._with_inputs(table, rows)

    def _with_inputs(self, table: pa.Table, rows: list[dict[str, Any]]) -> pa.Table:
        """The table with what each row's image has become."""
        kinds = {"image_status": pa.string(), "image_error": pa.string(), "image_hash": pa.string()}
        for family in self._transforms:
            kinds |= {f"{family}_input": pa.large_binary(), f"{family}_input_error": pa.string()}
        made = pa.Table.from_pylist(rows, schema=pa.schema(kinds))
        spent = {"image_uri", "image_bytes", *made.column_names} & set(table.column_names)
        table = table.drop_columns(sorted(spent))
        for name in made.column_names:
            table = table.append_column(name, made[name])
        return table

    def killed(self, table: pa.Table) -> pa.Table:
        """As a call, of posts whose picture killed the worker that decoded it."""
        return self._with_inputs(table, [{"image_status": ERROR, "image_error": KILLED}] * table.num_rows)

    def _decoded(self, data: bytes, families: list[str]) -> dict[str, Any]:
        try:
            image = decode(data, self._settings.max_pixels, self._settings.jpeg_side)
        except BadImage as error:
            return {"image_status": BAD_IMAGE, "image_error": str(error)}
        found: dict[str, Any] = {"image_status": OK, "image_hash": content_of(data)}
        for family in families:
            transform = self._transforms[family]
            try:
                pixels = transform.pixels(image)
                if (pixels.shape, pixels.dtype) != (tuple(transform.shape), transform.dtype):
                    declared = f"declared {transform.dtype} of shape {tuple(transform.shape)}"
                    raise FamilyError(
                        f"{family}: its transform gave {pixels.dtype} of shape {pixels.shape}, {declared}"
                    )
                found[f"{family}_input"] = pixels.tobytes()
            except SmpRayError:
                raise
            except Exception as error:  # costs this family of this post, and says so in its status
                found[f"{family}_input_error"] = reason(error)
        return found
