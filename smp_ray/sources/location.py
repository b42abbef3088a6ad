"""Where raw data lies: a folder or file on any pyarrow filesystem, and the addresses of what is inside it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

from smp_ray.errors import DataError, one_line
from smp_ray.store.workspace import Place

#: Raw files that are larger than this together are identified by size and time of change, not by their content.
_HASHED_BYTES = 2**30


@dataclass(frozen=True)
class Location(Place):
    """A file or folder of the raw data; `root` is its path on `filesystem`, `uri` what the user wrote."""

    problem = DataError

    def parent(self) -> Location:
        """The folder that holds this file."""
        base, _, query = self.uri.partition("?")
        uri = base.rstrip("/").rpartition("/")[0] + (f"?{query}" if query else "")
        return Location(uri=uri, filesystem=self.filesystem, root=self.root.rpartition("/")[0] or "/")

    def inside(self, relative: str) -> Location:
        """A folder inside."""
        _, mark, query = self.uri.partition("?")
        return Location(self.address(relative) + mark + query, self.filesystem, self.path(relative))

    def address(self, relative: str) -> str:
        """Address of a file inside: an absolute local path, or the root's URI extended.

        A query string, which may name the endpoint, is not repeated: of images' buckets, the config has it.
        """
        if self.is_local:
            return self.path(relative)
        return self.uri.partition("?")[0].rstrip("/") + (f"/{quote(relative)}" if relative else "")

    def kind(self, *parts: str) -> pafs.FileType:
        """File, Directory or NotFound; a filesystem that does not answer is a `DataError`."""
        with reading(self.address("/".join(parts))):
            return super().kind(*parts)

    def is_file(self, relative: str) -> bool:
        """Whether there is such a file inside."""
        return bool(self.kind(relative) == pafs.FileType.File)

    def text(self, relative: str) -> TextIO:
        """A file as text with its line ends as they are, decompressed where its suffix says so (.gz, .bz2, .zst).

        A byte-order mark is passed over, and invalid UTF-8 becomes U+FFFD.
        """
        with reading(self.path(relative)):
            raw: Any = self.filesystem.open_input_stream(self.path(relative))
        return io.TextIOWrapper(io.BufferedReader(raw, 2**20), "utf-8-sig", errors="replace", newline="")


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever a filesystem or a decompressor raises into one `DataError` line that names the file."""
    try:
        yield
    except (OSError, EOFError, pa.ArrowException, UnicodeError) as error:
        raise DataError(f"{name}: cannot be read: {one_line(error)}") from None


def files_identity(location: Location, names: Iterable[str]) -> list[dict[str, Any]]:
    """What identifies the content of files: name, size and a hash (or the time of change beyond `_HASHED_BYTES`)."""
    names = sorted(names)
    with reading(location.uri):
        infos = location.filesystem.get_file_info([location.path(name) for name in names])
        hashed = sum(info.size or 0 for info in infos) <= _HASHED_BYTES
        identity = []
        for name, info in zip(names, infos, strict=True):
            content = {"mtime_ns": info.mtime_ns}
            if hashed:
                with location.filesystem.open_input_file(info.path) as file:
                    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
                content = {"blake2b": digest.hexdigest()}
            identity.append({"name": name, "size": info.size, **content})
        return identity


def inside(path: str) -> str | None:
    """A relative path in its simplest form, or None where it is absolute or may lead out of its folder.

    Any `..` is refused, even one that would come back: through a linked folder it need not.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or path.startswith("/") or ".." in parts or "\0" in path or "://" in path:
        return None
    return "/".join(parts)
