"""A folder or an object-store prefix on a pyarrow filesystem, and the one where artefacts live.

Layout of a workspace: `<workspace>/<stage>/<fingerprint>/…` with `manifest.json` written last. An artefact without a
manifest does not exist for any reader. Everything goes through `pyarrow.fs`, so `s3://…` works as a folder does.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import pyarrow.fs as pafs

from smp_ray.errors import SmpRayError, WorkspaceError, one_line
from smp_ray.store.address import ADVICE, has_credentials, without_query
from smp_ray.store.manifest import MANIFEST, Fragment, Manifest, git_commit, library_versions

T = TypeVar("T")

#: Raised when artefacts of earlier versions can no longer be read; `workspace.json` holds that of a workspace.
FORMAT = 2
_MARKER = "workspace.json"
#: How often a request that S3 answers by 500 or 503, or not at all, is made again: after 25 ms, 50 ms, …; 13 s in all.
RETRIES = 9
#: What pyarrow says of such an answer that is longer than the file that was asked for: it is not made again.
_CUT_SHORT = "Failed to flush response stream"


class _S3(pafs.S3FileSystem):
    """S3 that is asked as often by other processes, too: pickled, pyarrow's own forgets how often."""

    def __reduce__(self) -> tuple[Any, ...]:
        _, (options,) = super().__reduce__()
        return _patient, (options,)


def _patient(options: dict[str, Any]) -> pafs.FileSystem:
    return _S3(retry_strategy=pafs.AwsDefaultS3RetryStrategy(max_attempts=RETRIES), **options)


def asked_again(read: Callable[[], T]) -> T:
    """What `read` returns, which is called again where S3's answer was cut short."""
    for attempt in count():
        try:
            return read()
        except OSError as error:
            if attempt == RETRIES or _CUT_SHORT not in str(error):
                raise
    raise AssertionError


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Say in one line, as a `WorkspaceError`, that `name` cannot be written."""
    try:
        yield
    except OSError as error:
        raise WorkspaceError(f"{name}: cannot be written: {one_line(error)}") from error


@dataclass(frozen=True)
class Place:
    """A root on a filesystem. Paths given to its methods are relative to the root; "" is the root itself."""

    #: What is raised where the place cannot be opened.
    problem: ClassVar[type[SmpRayError]] = WorkspaceError

    uri: str
    filesystem: pafs.FileSystem = field(hash=False)  # has no hash; compared all the same
    root: str

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open a local path or a URI (`s3://bucket/prefix?endpoint_override=…`, `gs://`, `file://`).

        Raises:
            SmpRayError: the address is not one that pyarrow can open, or has credentials in it.
        """
        if "://" not in uri:
            return cls(uri, pafs.LocalFileSystem(), str(Path(uri).expanduser().absolute()))
        if has_credentials(uri):
            raise cls.problem(f"{without_query(uri)}: found credentials in this address; {ADVICE}")
        try:
            filesystem, root = pafs.FileSystem.from_uri(uri)
        except (OSError, ValueError) as error:
            raise cls.problem(f"{uri}: cannot be opened: {one_line(error)}") from None
        if isinstance(filesystem, pafs.S3FileSystem):
            filesystem = _patient(filesystem.__reduce__()[1][0])
        return cls(uri, filesystem, root.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether files inside are named by plain paths."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, *parts: str) -> str:
        """Full path on `filesystem` of something inside."""
        return "/".join([self.root.rstrip("/"), *(part.strip("/") for part in parts if part)]) or "/"

    def kind(self, *parts: str) -> pafs.FileType:
        """File, Directory or NotFound."""
        return self.filesystem.get_file_info(self.path(*parts)).type

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        return bool(self.kind(*parts) != pafs.FileType.NotFound)

    def read(self, *parts: str) -> bytes:
        """The content of a file."""

        def read() -> bytes:
            with self.filesystem.open_input_stream(self.path(*parts)) as stream:
                return bytes(stream.read())

        return asked_again(read)

    def write(self, data: bytes, *parts: str) -> None:
        """Write a file so that a reader sees the old one or the whole new one, never a part."""
        path = self.path(*parts)
        if not self.is_local:
            with self.filesystem.open_output_stream(path) as stream:  # an object appears when it is complete
                stream.write(data)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def write_json(self, value: Any, *parts: str) -> None:
        """As `write`, a value as JSON."""
        self.write(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode(), *parts)


@dataclass(frozen=True)
class Workspace(Place):
    """The place of all artefacts of a project."""

    def check_format(self) -> None:
        """Refuse, with a `WorkspaceError`, a workspace that another version wrote, or that is out of reach."""
        try:
            marker = self.read_json(_MARKER)
            found = (
                marker.get("format") if marker else 1 if self.exists("ingest") or self.exists("features") else FORMAT
            )
        except OSError as error:
            raise WorkspaceError(
                f"{self.uri}: cannot be read: {one_line(error, 300)}; is it there? are credentials in the environment?"
            ) from error
        if found != FORMAT:
            raise WorkspaceError(
                f"{self.uri}: a workspace of format {found}, and this version of smp_ray reads format {FORMAT}: "
                "name another workspace (its results are computed anew), or go on with the version that wrote it"
            )

    def files(self, *parts: str) -> list[pafs.FileInfo]:
        """Files below a folder, sorted by path; none where there is no folder."""
        selector = pafs.FileSelector(self.path(*parts), recursive=True, allow_not_found=True)
        found = [info for info in self.filesystem.get_file_info(selector) if info.type == pafs.FileType.File]
        return sorted(found, key=lambda info: info.path)

    def relative(self, full_path: str) -> str:
        """The inverse of `path`."""
        return full_path.removeprefix(self.root.rstrip("/") + "/")

    def make_dir(self, *parts: str) -> str:
        """Create a folder (a no-op on object stores) and return its full path."""
        path = self.path(*parts)
        with writing(self.uri):
            if not self.exists(_MARKER):
                self.filesystem.create_dir(self.root, recursive=True)
                self.write_json({"format": FORMAT}, _MARKER)
            self.filesystem.create_dir(path, recursive=True)
        return path

    def delete_dir(self, *parts: str) -> None:
        """Delete a folder and all below it, if it is there."""
        if self.files(*parts) or self.exists(*parts):
            self.filesystem.delete_dir(self.path(*parts))

    def read_json(self, *parts: str) -> Any:
        """Parsed JSON of a file, or None where there is no such file."""
        if not self.exists(*parts):
            return None
        try:
            return json.loads(self.read(*parts))
        except ValueError as error:
            path = self.path(*parts)
            raise WorkspaceError(f"{path}: not readable as JSON ({error}); delete it to recompute") from None

    def manifest(self, stage: str, fingerprint: str) -> Manifest | None:
        """The manifest of a committed artefact, or None; `fingerprint` "" for the only artefact of a folder."""
        raw = self.read_json(stage, fingerprint, MANIFEST)
        if raw is None:
            return None
        try:
            raw["fragments"] = [Fragment(**entry) for entry in raw["fragments"]]
            return Manifest(**raw)
        except (TypeError, KeyError) as error:
            path = self.path(stage, fingerprint, MANIFEST)
            raise WorkspaceError(f"{path}: written by another version ({error}); delete it to recompute") from None

    def manifests(self, stage: str) -> list[Manifest]:
        """All committed artefacts of a stage, oldest first."""
        selector = pafs.FileSelector(self.path(stage), recursive=False, allow_not_found=True)
        found = [self.manifest(stage, info.base_name) for info in self.filesystem.get_file_info(selector)]
        return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.created_at)

    def commit(self, manifest: Manifest, alone: bool = False) -> Manifest:
        """Write the manifest, which makes the artefact exist: `alone` in its stage's folder, or beside others."""
        manifest.created_at = datetime.now(UTC).isoformat(timespec="seconds")
        manifest.versions = library_versions()
        manifest.git_commit = git_commit()
        folder = "" if alone else manifest.fingerprint
        self.make_dir(manifest.stage, folder)
        self.write_json(asdict(manifest), manifest.stage, folder, MANIFEST)
        return manifest
