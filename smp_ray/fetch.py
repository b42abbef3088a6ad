"""Fetching the encoded bytes of an image, with the reason where that fails.

Ray's own `download` expression gives None for every failure and cannot say why, so the bytes are read here.
"""

import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

import pyarrow.fs as pafs

from smp_ray import __version__
from smp_ray.config import ImagesConfig
from smp_ray.errors import WorkspaceError, one_line
from smp_ray.store.workspace import Place


@dataclass(frozen=True)
class Fetched:
    """Encoded bytes of an image, or the reason why there are none."""

    data: bytes | None
    reason: str = ""
    #: True where something is there but cannot be taken, which is `bad_image` rather than `no_image`.
    refused: bool = False


class Fetcher:
    """Fetches images by path, `file://`, `http(s)://`, `s3://` or `gs://`; one instance a worker."""

    def __init__(self, settings: ImagesConfig) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="fetch")
        self._filesystems: dict[str, pafs.FileSystem] = {}

    def fetch_all(self, uris: list[str | None]) -> list[Fetched]:
        """Fetch many at once, in the order given; None stands for a post without an image."""
        if sum(uri is not None and "://" in uri for uri in uris) < 2:
            return [self.fetch(uri) for uri in uris]  # local files: threads would only cost
        return list(self._pool.map(self.fetch, uris))

    def fetch(self, uri: str | None) -> Fetched:
        """Fetch one image. Never raises: an image that cannot be had is a fact of the data."""
        if not uri:
            return Fetched(None, "the post has no image")
        try:
            return self._fetch_http(uri) if uri.startswith(("http://", "https://")) else self._fetch_file(uri)
        except (OSError, WorkspaceError, ValueError) as error:
            return Fetched(None, f"not reachable: {one_line(error)[:300]}")

    def _fetch_file(self, uri: str) -> Fetched:
        filesystem, path = self._location(uri)
        info = filesystem.get_file_info(path)
        if info.type != pafs.FileType.File:
            return Fetched(None, "no such file" if info.type == pafs.FileType.NotFound else "not a file")
        if info.size > self._settings.max_bytes:
            return self._too_large()
        with filesystem.open_input_stream(path) as stream:
            return Fetched(stream.read())

    def _fetch_http(self, uri: str) -> Fetched:
        # Servers want percent-encoding; people paste spaces and umlauts.
        request = urllib.request.Request(
            quote(uri, safe="%/:=&?~#+!$,;'@()*[]"), headers={"User-Agent": f"smp_ray/{__version__}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self._settings.timeout_s) as response:
                data = response.read(self._settings.max_bytes + 1)
        except urllib.error.HTTPError as error:
            return Fetched(None, f"HTTP {error.code} {error.reason}")
        return self._too_large() if len(data) > self._settings.max_bytes else Fetched(data)

    def _too_large(self) -> Fetched:
        return Fetched(None, f"larger than features.images.max_bytes = {self._settings.max_bytes}", refused=True)

    def _location(self, uri: str) -> tuple[pafs.FileSystem, str]:
        if "://" not in uri:
            place = Place.open(uri)
            return place.filesystem, place.root
        # Opening an S3 filesystem costs far more than a read, so one is kept for each server and bucket.
        parts = urlsplit(uri)
        key = parts._replace(path="", fragment="").geturl()
        if key not in self._filesystems:
            self._filesystems[key] = Place.open(uri).filesystem
        return self._filesystems[key], parts.netloc + unquote(parts.path)
