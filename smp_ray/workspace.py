"""Where artefacts live: a folder or an object store, fingerprints, manifests and the atomic commit.

Layout: `<workspace>/<stage>/<fingerprint>/…` with `manifest.json` written last. An artefact without a manifest does
not exist for any reader. Everything goes through one `pyarrow.fs.FileSystem`, so `s3://…` works as a folder does.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from smp_ray.errors import WorkspaceError

MANIFEST = "manifest.json"
_LIBRARIES = ("smp-ray", "ray", "torch", "open_clip_torch", "transformers", "lightgbm", "pandas", "pyarrow")


@dataclass(frozen=True)
class Fragment:
    """One Parquet file of an artefact; `path` is relative to the workspace."""

    path: str
    rows: int
    bytes: int


@dataclass
class Manifest:
    """What an artefact is and how it came to be; see design.md, Contracts."""

    stage: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    wall_seconds: float = 0.0
    rows_per_second: float = 0.0
    fragments: list[Fragment] = field(default_factory=list)
    #: Stage-specific facts (the feature families keep here which posts artefacts they cover).
    details: dict[str, Any] = field(default_factory=dict)
    created_at: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None


@dataclass(frozen=True)
class Workspace:
    """A root on a pyarrow filesystem. Paths given to its methods are relative to the root."""

    uri: str
    filesystem: pafs.FileSystem
    root: str

    @classmethod
    def open(cls, uri: str) -> Workspace:
        """Open a folder or an object-store prefix (`s3://bucket/prefix?endpoint_override=…` for other servers).

        Raises:
            WorkspaceError: the address is not one that pyarrow can open.
        """
        filesystem, root = open_location(uri)
        return cls(uri=uri, filesystem=filesystem, root=root)

    def path(self, *parts: str) -> str:
        """Full path on `filesystem` of a path relative to the workspace."""
        return "/".join([self.root, *(part.strip("/") for part in parts)])

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        return bool(self.filesystem.get_file_info(self.path(*parts)).type != pafs.FileType.NotFound)

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
        try:
            self.filesystem.create_dir(path, recursive=True)
        except OSError as error:
            raise WorkspaceError(f"{self.uri}: cannot be written: {error}") from None
        return path

    def delete_dir(self, *parts: str) -> None:
        """Delete a folder and all below it, if it is there."""
        if self.files(*parts) or self.exists(*parts):
            self.filesystem.delete_dir(self.path(*parts))

    def read_json(self, *parts: str) -> Any:
        """Parsed JSON of a file, or None where there is no such file."""
        if not self.exists(*parts):
            return None
        with self.filesystem.open_input_stream(self.path(*parts)) as stream:
            data = stream.read()
        try:
            return json.loads(data)
        except ValueError as error:
            raise WorkspaceError(
                f"{self.path(*parts)}: not readable as JSON ({error}); delete it to recompute"
            ) from None

    def write_json(self, value: Any, *parts: str) -> None:
        """Write JSON so that a reader sees the old file or the whole new one, never a part."""
        path = self.path(*parts)
        data = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode()
        if not isinstance(self.filesystem, pafs.LocalFileSystem):
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

    def manifest(self, stage: str, fingerprint: str) -> Manifest | None:
        """The manifest of a committed artefact, or None."""
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
        names = [info.base_name for info in self.filesystem.get_file_info(selector)]
        found = [self.manifest(stage, name) for name in names]
        return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.created_at)

    def commit(self, manifest: Manifest) -> Manifest:
        """Write the manifest, which makes the artefact exist; fills in the time, versions and git commit."""
        manifest.created_at = datetime.now(UTC).isoformat(timespec="seconds")
        manifest.versions = library_versions()
        manifest.git_commit = git_commit()
        self.write_json(asdict(manifest), manifest.stage, manifest.fingerprint, MANIFEST)
        return manifest


def open_location(uri: str) -> tuple[pafs.FileSystem, str]:
    """Filesystem and path of a local path or a URI (`s3://`, `gs://`, `file://`)."""
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        filesystem, root = pafs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise WorkspaceError(f"{uri}: cannot be opened: {' '.join(str(error).split())}") from None
    return filesystem, root.rstrip("/")


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits of the canonical JSON of `parts`: equal parts, equal fingerprint, on any machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that the numbers depend on; those not installed are left out."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache
def git_commit() -> str | None:
    """Commit of the source tree this package runs from, with `-dirty` if changed; None outside a checkout."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty", "--match", "no-tags"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
