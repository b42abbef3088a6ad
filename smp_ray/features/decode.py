"""Fetching and decoding each image once, and giving it to each family's own transform. No Ray in here."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.config import ImagesConfig
from smp_ray.errors import FamilyError, SmpRayError
from smp_ray.families.base import ImageTransform
from smp_ray.features.compute import needed, reason
from smp_ray.fetch import Fetched, Fetcher
from smp_ray.models.images import BadImage, content_hash, decode
from smp_ray.schema import BAD_IMAGE, ERROR, KILLED, OK


class DecodeStep:
    """Fetches and decodes each image once and applies the transform of each image family of the pass."""

    def __init__(self, settings: ImagesConfig, transforms: Mapping[str, ImageTransform]) -> None:
        self._settings = settings
        self._transforms = transforms
        self._fetcher = Fetcher(settings)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Replace the image columns by `image_status`, `image_error`, `image_hash` and a `<family>_input` each.

        Inputs are the raw bytes of the transform's arrays; `<family>_input_error` says where a transform failed. A
        table with `image_status` and `image_error` was fetched before: what they say of a post without bytes stands.
        """
        wants = {family: needed(table, family) for family in self._transforms}
        wanted = np.any(list(wants.values()), axis=0)
        rows: list[dict[str, Any]] = [{} for _ in range(table.num_rows)]
        for row, fetched in self._fetched(table, np.flatnonzero(wanted).tolist()):
            rows[row] = self._decoded(fetched, [family for family, want in wants.items() if want[row]])
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

    def _fetched(self, table: pa.Table, rows: list[int]) -> Iterator[tuple[int, Fetched]]:
        """What is here of the wanted rows at once, the rest as it comes."""
        missing = []
        known = "image_status" in table.column_names
        for row in rows:
            data = table["image_bytes"][row].as_py()
            status = table["image_status"][row].as_py() if known else None
            if data is not None:
                yield row, Fetched(data)
            elif status is not None:
                yield row, Fetched(None, status, table["image_error"][row].as_py() or "")
            else:
                missing.append(row)
        for place, fetched in self._fetcher.fetch([table["image_uri"][row].as_py() for row in missing]):
            yield missing[place], fetched

    def _decoded(self, fetched: Fetched, families: list[str]) -> dict[str, Any]:
        if fetched.data is None:
            return {"image_status": fetched.status, "image_error": fetched.reason}
        try:
            image = decode(fetched.data, self._settings.max_pixels, self._settings.jpeg_side)
        except BadImage as error:
            return {"image_status": BAD_IMAGE, "image_error": str(error)}
        found: dict[str, Any] = {"image_status": OK, "image_hash": content_hash(fetched.data)}
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
