"""The decoding step takes what was fetched before, and fetches the rest itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import ExifTags, Image

from smp_ray.config import ImagesConfig
from smp_ray.errors import UnreachableError
from smp_ray.features.decode import DecodeStep
from smp_ray.fetch.outcome import Unavailable
from smp_ray.models.images import WHOLE
from tests.fetch.hostile import PICTURE, serving


class Corner:
    shape, dtype = (2, 2, 3), np.dtype("uint8")

    def pixels(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image)[:2, :2]


def step() -> DecodeStep:
    return DecodeStep(ImagesConfig(allow_private=True, timeout_s=1), {"corner": Corner()})


def table(rows: list[dict[str, object]], **columns: pa.DataType) -> pa.Table:
    kinds = {"image_uri": pa.string(), "image_bytes": pa.large_binary(), "need_corner": pa.bool_(), **columns}
    return pa.Table.from_pylist(rows, schema=pa.schema(kinds))


def test_what_was_fetched_before_is_not_fetched_again() -> None:
    with serving() as server:
        uri = f"{server.url}/ok.jpg"
        found = step()(
            table(
                [
                    {"image_uri": uri, "image_bytes": PICTURE, "image_status": "ok", "need_corner": True},
                    {"image_uri": uri, "image_status": "unreachable", "image_error": "a timeout", "need_corner": True},
                    {"image_uri": uri, "image_status": "no_image", "image_error": "HTTP 404", "need_corner": True},
                    {"image_uri": uri, "image_bytes": b"", "image_status": "ok", "need_corner": True},
                    {"image_uri": uri, "image_bytes": PICTURE, "image_status": "ok", "need_corner": False},
                ],
                image_status=pa.string(),
                image_error=pa.string(),
            )
        )
        assert not server.asked
    statuses = ["ok", "unreachable", "no_image", "bad_image", None]
    assert found["image_status"].to_pylist() == statuses
    assert found["image_error"].to_pylist()[:4] == [None, "a timeout", "HTTP 404", "empty file"]
    assert [value is not None for value in found["corner_input"].to_pylist()] == [one == "ok" for one in statuses]
    assert {"image_uri", "image_bytes"}.isdisjoint(found.column_names)


def test_pictures_are_those_of_their_posts_whatever_comes_first() -> None:
    with serving() as server:
        paths = ["/silent", "/ok.jpg", "/status/404", "/redirect/ok.jpg", "/page.jpg"]
        rows: list[dict[str, object]] = [{"image_uri": f"{server.url}{path}", "need_corner": True} for path in paths]
        every = table([*rows, {"image_bytes": PICTURE, "need_corner": True}, {"need_corner": True}])
        found = step()(every.append_column("row_id", pa.array(range(7)))).sort_by("row_id")
    assert found["image_status"].to_pylist() == ["unreachable", "ok", "no_image", "ok", "bad_image", "ok", "no_image"]
    assert found.column_names.count("image_status") == 1


def test_large_jpegs_are_decoded_smaller_where_asked(tmp_path: Path) -> None:
    class Size(Corner):
        def pixels(self, image: Image.Image) -> np.ndarray:
            sizes.append((image.size, image.info[WHOLE]))
            return super().pixels(image)

    sizes: list[tuple[tuple[int, int], tuple[int, int]]] = []
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (400, 399)).save(tmp_path / "large.jpg", exif=turned)
    for side in (None, 100):
        images = ImagesConfig(jpeg_side=side)
        DecodeStep(images, {"corner": Size()})(table([{"image_uri": str(tmp_path / "large.jpg"), "need_corner": True}]))
    assert sizes == [((399, 400), (399, 400)), ((200, 200), (399, 400))]


def test_files_that_cannot_be_had_for_now_stop_the_pass_as_servers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise Unavailable("the file cannot be read (Input/output error)")

    monkeypatch.setattr("smp_ray.fetch.fetcher.read_file", broken)
    images = ImagesConfig(timeout_s=0.1)
    rows: list[dict[str, object]] = [{"image_uri": f"/mnt/{number}.jpg", "need_corner": True} for number in range(200)]
    with pytest.raises(UnreachableError, match="unreachable"):
        DecodeStep(images, {"corner": Corner()})(table(rows))
