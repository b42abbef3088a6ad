"""Objects of buckets that the config names, and what a config may say of fetching; also `fetch/files.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow.fs as pafs
import pytest

from smp_ray.config import ImagesConfig, build_config
from smp_ray.errors import ConfigError
from smp_ray.fetch import Fetched, Fetcher
from smp_ray.store.workspace import Place
from tests.conftest import OBJECT_STORE
from tests.fetch.hostile import PICTURE, serving


def config(tmp_path: Any, **images: Any) -> ImagesConfig:
    raw = {"workspace": str(tmp_path), "source": {"kind": "demo", "posts": 10}, "features": {"images": images}}
    return build_config(raw).features.images


@pytest.fixture
def fetch(bucket: str) -> Callable[[str], Fetched]:
    """Fetches from a bucket that holds `a photo.jpg` and something large."""
    filesystem, _ = pafs.FileSystem.from_uri(bucket.format("x"))
    for key, data in (("bucket/a photo.jpg", PICTURE), ("bucket/large.jpg", bytes(5000))):
        with filesystem.open_output_stream(key) as stream:
            stream.write(data)
    gone = bucket.replace("bucket", "gone", 1)
    settings = ImagesConfig(timeout_s=3, max_bytes=4000, buckets=(bucket.replace("{}", ""), gone.replace("{}", "")))
    assert len(PICTURE) < 4000
    fetcher = Fetcher(settings)
    return lambda uri: fetcher.fetch_all([uri])[0]


def test_objects(fetch: Callable[[str], Fetched]) -> None:
    assert fetch("s3://bucket/a%20photo.jpg") == fetch("s3://bucket/a photo.jpg") == Fetched(PICTURE)
    for uri, status, word in (
        ("s3://bucket/none.jpg", "no_image", "no such object"),
        ("s3://bucket/large.jpg", "bad_image", "max_bytes"),
        ("s3://bucket/", "no_image", "without a key"),
        ("s3://bucket/a//b.jpg", "no_image", "key"),
        ("s3://bucket/../b.jpg", "no_image", "key"),
        ("s3://gone/x.jpg", "no_image", "no such object"),
        ("s3://other/x.jpg", "no_image", "features.images.buckets"),
        ("gs://bucket/x.jpg", "no_image", "features.images.buckets"),
        ("s3://bucket/x.jpg?endpoint_override=127.0.0.1:1&scheme=http", "no_image", "options"),
        ("s3://KEY:hunter2@bucket/x.jpg", "no_image", "credentials"),
    ):
        found = fetch(uri)
        assert (found.data, found.status) == (None, status), found.reason
        assert word in found.reason
        assert "hunter2" not in found.reason


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize(
    ("key", "status", "word"),
    [
        ("ok.jpg", "ok", ""),
        ("status/403", "unreachable", "credentials"),
        ("status/401", "unreachable", "credentials"),
        ("status/503", "unreachable", "throttled"),
        ("status/400", "unreachable", "failed for now"),
        ("status/404", "no_image", "no such object"),
        ("silent", "unreachable", "timeout"),
        ("drip", "unreachable", "timeout"),
    ],
)
def test_what_a_store_answers(monkeypatch: pytest.MonkeyPatch, scheme: str, key: str, status: str, word: str) -> None:
    for name, value in OBJECT_STORE.items():
        monkeypatch.setenv(name, value)
    with serving() as server:
        address = f"{scheme}://b?endpoint_override={server.url.removeprefix('http://')}&scheme=http&anonymous=true"
        found = Fetcher(ImagesConfig(timeout_s=3, buckets=(address,))).fetch_all([f"{scheme}://b/{key}"])[0]
        assert (found.status, word in found.reason) == (status, True), found.reason
        if key.startswith("status"):
            assert (server.asked.total() > 1) == (status == "unreachable")


@pytest.mark.parametrize(
    "address",
    [
        "s3://KEY:hunter2@bucket", "s3://bucket?access_key=KEY&secret_key=hunter2", "s3://bucket/folder", "bucket",
        "https://bucket.s3.amazonaws.com", "s3://",
    ],
)  # fmt: skip
def test_addresses_of_buckets_that_are_refused(tmp_path: Any, address: str) -> None:
    with pytest.raises(ConfigError, match=r"features\.images\.buckets") as caught:
        config(tmp_path, buckets=[address])
    assert "hunter2" not in str(caught.value)
    if "hunter2" in address:
        assert "environment" in str(caught.value)


def test_other_keys_are_bounded(tmp_path: Any) -> None:
    for images in ({"hosts": ["https://x"]}, {"contact": "a\r\nb: c"}, {"threads": 8}, {"stop_after_unreachable": 2}):
        with pytest.raises(ConfigError, match=r"features\.images\."):
            config(tmp_path, **images)
    assert config(tmp_path, hosts=["Flickr.COM"]).hosts == ("flickr.com",)


def test_credentials_in_any_address_are_refused() -> None:
    with pytest.raises(Place.problem, match="environment") as caught:
        Place.open("s3://KEY:hunter2@bucket/prefix")
    assert "hunter2" not in str(caught.value)
