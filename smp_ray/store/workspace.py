"""Where artefacts live: a folder or an object store, manifests and the atomic commit.

Layout: `<workspace>/<stage>/<fingerprint>/…` with `manifest.json` written last. An artefact without a manifest does
not exist for any reader. Everything goes through one `pyarrow.fs.FileSystem`, so `s3://…` works as a folder does.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.fs as pafs

from smp_ray.errors import WorkspaceError
from smp_ray.store.manifest import MANIFEST, Fragment, Manifest, git_commit, library_versions
from smp_ray.store.place import Place

#: Raised when artefacts of earlier versions can no longer be read; `workspace.json` holds that of a workspace.
FORMAT = 2
_MARKER = "workspace.json"


@dataclass(frozen=True)
class Workspace(Place):
    """The place of all artefacts of a project."""

    def check_format(self) -> None:
        """Refuse a workspace that another version wrote.

        Raises:
            WorkspaceError: its format is not `FORMAT`; one line says what to do.
        """
        marker = self.read_json(_MARKER)
        found = marker.get("format") if marker else 1 if self.exists("ingest") or self.exists("features") else FORMAT
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
        try:
            if not self.exists(_MARKER):
                self.filesystem.create_dir(self.root, recursive=True)
                self.write_json({"format": FORMAT}, _MARKER)
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
        try:
            return json.loads(self.read(*parts))
        except ValueError as error:
            raise WorkspaceError(
                f"{self.path(*parts)}: not readable as JSON ({error}); delete it to recompute"
            ) from None

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
        names = [info.base_name for info in self.filesystem.get_file_info(selector)]
        found = [self.manifest(stage, name) for name in names]
        return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.created_at)

    def commit(self, manifest: Manifest, alone: bool = False) -> Manifest:
        """Write the manifest, which makes the artefact exist; fills in the time, versions and git commit.

        Args:
            manifest: of a finished artefact.
            alone: it replaces the only artefact of its folder.
        """
        manifest.created_at = datetime.now(UTC).isoformat(timespec="seconds")
        manifest.versions = library_versions()
        manifest.git_commit = git_commit()
        folder = "" if alone else manifest.fingerprint
        self.make_dir(manifest.stage, folder)
        self.write_json(asdict(manifest), manifest.stage, folder, MANIFEST)
        return manifest
