"""Fetching and decoding each image once, and giving it to each family's own transform. No Ray in here."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.config import ImagesConfig
from smp_ray.errors import FamilyError, SmpRayError
from smp_ray.families.base import ImageTransform
from smp_ray.features.compute import needed, reason
from smp_ray.fetch import Fetched, Fetcher
from smp_ray.models.images import BadImage, content_hash, decode
from smp_ray.schema import BAD_IMAGE, NO_IMAGE, OK


class DecodeStep:
    """Fetches and decodes each image once and applies the transform of each image family of the pass."""

    def __init__(self, settings: ImagesConfig, transforms: Mapping[str, ImageTransform]) -> None:
        self._settings = settings
        self._transforms = transforms
        self._fetcher = Fetcher(settings)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Replace the image columns by `image_status`, `image_error`, `image_hash` and a `<family>_input` each.

        Inputs are the raw bytes of the transform's arrays; `<family>_input_error` says where a transform failed.
        """
        wants = {family: needed(table, family) for family in self._transforms}
        wanted = np.any(list(wants.values()), axis=0)
        kinds = {"image_status": pa.string(), "image_error": pa.string(), "image_hash": pa.string()}
        for family in self._transforms:
            kinds |= {f"{family}_input": pa.large_binary(), f"{family}_input_error": pa.string()}
        rows = [
            self._decoded(fetched, [family for family, want in wants.items() if want[row]]) if wanted[row] else {}
            for row, fetched in enumerate(self._fetch(table, wanted))
        ]
        made = pa.Table.from_pylist(rows, schema=pa.schema(kinds))
        for name in made.column_names:
            table = table.append_column(name, made[name])
        return table.drop_columns(["image_uri", "image_bytes"])

    def killed(self, table: pa.Table) -> pa.Table:
        """As a call, of posts whose picture killed the worker that decoded it."""
        verdicts = [{"image_status": ERROR, "image_error": killed_again(table, row)} for row in range(table.num_rows)]
        return self._with_inputs(table, verdicts)

    def _fetch(self, table: pa.Table, wanted: np.ndarray) -> list[Fetched]:
        inline = table["image_bytes"].to_pylist()
        uris = table["image_uri"].to_pylist()
        asked = [uri if want and data is None else None for uri, data, want in zip(uris, inline, wanted, strict=True)]
        fetched = self._fetcher.fetch_all(asked)
        return [Fetched(data) if data is not None else got for data, got in zip(inline, fetched, strict=True)]

    def _decoded(self, fetched: Fetched, families: list[str]) -> dict[str, Any]:
        if fetched.data is None:
            return {"image_status": BAD_IMAGE if fetched.refused else NO_IMAGE, "image_error": fetched.reason}
        try:
            image = decode(fetched.data, self._settings.max_pixels)
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
