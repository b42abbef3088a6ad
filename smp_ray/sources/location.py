"""Where raw data lies: a folder or file on any pyarrow filesystem, and the addresses of what is inside it."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

from smp_ray.errors import DataError, one_line
from smp_ray.progress import say
from smp_ray.store.workspace import Place, Workspace

#: A larger file is identified by size and time of change, not by its content.
_HASHED_BYTES = 2**30
#: Of more bytes in all no file is: reading them twice would take longer than a change that is overlooked costs.
_HASHED_TOTAL = 2**35
#: File of the workspace: address -> size, time of change and hash of raw files.
_HASHES = "hashes.json"
_SETTLED_NS = 2_000_000_000
_REQUESTS = 16


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


def files_identity(location: Location, names: Iterable[str], workspace: Workspace) -> list[dict[str, Any]]:
    """What identifies the content of files: name, size and a hash.

    Instead of a hash, a file of more than `_HASHED_BYTES` has its time of change, and so has each where all have more
    than `_HASHED_TOTAL`.

    The workspace remembers the hashes: a file of the same size and time of change is not read for its hash again.
    """
    known = workspace.read_json(_HASHES) or {}

    def looked(name: str) -> pafs.FileInfo:
        with reading(location.path(name)):
            return location.filesystem.get_file_info(location.path(name))

    def identified(name: str, info: pafs.FileInfo) -> tuple[dict[str, Any], tuple[str, list[Any]] | None]:
        with reading(info.path):
            address, state = location.inside(name).uri, [info.size, info.mtime_ns]
            if (info.size or 0) > _HASHED_BYTES or total > _HASHED_TOTAL:
                return {"name": name, "size": info.size, "mtime_ns": info.mtime_ns}, None
            *before, digest = known.get(address, [None])
            if before != state:
                with location.filesystem.open_input_file(info.path) as file:
                    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            # A file that changes again at once may keep its time of change: object stores count in seconds.
            settled = before != state and info.mtime_ns is not None and time.time_ns() - info.mtime_ns > _SETTLED_NS
            entry = {"name": name, "size": info.size, "blake2b": digest}
            return entry, (address, [*state, digest]) if settled else None

    with ThreadPoolExecutor(_REQUESTS) as pool:
        ordered = sorted(names)
        infos = list(pool.map(looked, ordered))
        total = sum(info.size or 0 for info in infos)
        found = list(pool.map(identified, ordered, infos))
    new = dict(remember for _, remember in found if remember)
    if new and workspace.exists():
        try:
            workspace.write_json({**known, **new}, _HASHES)
        except OSError as error:  # whoever may only read, can
            say(f"hashes of raw files are not remembered: {workspace.path(_HASHES)}: {one_line(error)}")
    return [entry for entry, _ in found]


def inside(path: str) -> str | None:
    """A relative path in its simplest form, or None where it is absolute or may lead out of its folder.

    Any `..` is refused, even one that would come back: through a linked folder it need not.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or path.startswith("/") or ".." in parts or "\0" in path or "://" in path:
        return None
    return "/".join(parts)
