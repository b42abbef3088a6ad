"""House-keeping of a workspace: what no configuration needs any more is removed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import pyarrow.fs as pafs

from smp_ray.errors import ConfigError
from smp_ray.families.keys import FamilyKey
from smp_ray.run import Run
from smp_ray.sources.piece import folder_of
from smp_ray.store.manifest import MANIFEST
from smp_ray.store.reader import FAMILIES, PASS_NOTE, PASSES, passes_of
from smp_ray.store.workspace import Workspace


def collect(runs: Sequence[Run], dry_run: bool = False) -> dict[str, tuple[int, int]]:
    """Remove what none of the configurations needs, or only say what; the workspace is held by the caller.

    A stage whose inputs are not there, and a family that is not computed as configured, keep all their artefacts. Files
    that no stage made are left alone.

    Returns:
        Files and bytes that are superfluous, by folder.
    """
    workspace, files = runs[0].workspace, _unneeded(runs)
    if not dry_run:
        # Manifests first: one that is left behind by a kill must not name files that are gone.
        for info in sorted(files, key=lambda info: info.base_name != MANIFEST):
            workspace.filesystem.delete_file(info.path)
        for place in _places(runs):
            _delete_empty(workspace, place)
    return _counted(workspace, files)


def _unneeded(runs: Sequence[Run]) -> list[pafs.FileInfo]:
    workspace = runs[0].workspace
    if others := sorted({run.workspace.root for run in runs} - {workspace.root}):
        raise ConfigError(f"found several workspaces: {workspace.root}, {', '.join(others)}; name those of one")
    folders, files = _needed(runs)
    found = {info.path: info for place in _places(runs) for info in workspace.files(place)}
    return [info for path, info in found.items() if not _kept(workspace.relative(path), folders, files)]


def _kept(path: str, folders: set[str], files: set[str]) -> bool:
    above = path.split("/")[:-1]
    inside = any("/".join(above[:depth]) in folders for depth in range(1, len(above) + 1))
    return path in files or (inside and not path.endswith(".tmp"))


def _needed(runs: Sequence[Run]) -> tuple[set[str], set[str]]:
    """Folders and single files, relative to the workspace, that some configuration needs."""
    folders: set[str] = set()
    files: set[str] = set()
    workspace = runs[0].workspace
    for run in runs:
        for stage in run.stages:
            if not stage.wanted(run.config) or stage.place == FAMILIES:
                continue
            key = None if stage.alone else stage.key(run)
            folders.add(f"{stage.place}/{key}" if key else stage.place)
            if stage.kept and (earlier := stage.last(run)) is not None:  # what `--keep-predictor` goes on with
                folders.add(f"{stage.place}/{earlier.fingerprint}")
            if stage.raw:
                folders |= {folder_of(piece) for piece in run.reader.pieces()}
        for family in run.families.values():
            folders.add(f"{family.folder}/{family.fingerprint}")
            manifest = workspace.manifest(family.folder, family.fingerprint)
            files |= {fragment.path for fragment in manifest.fragments} if manifest else set()
            if manifest is None:
                # Perhaps it was computed where there is a GPU, in another type of numbers, and here is none.
                folders |= {family.folder, PASSES}
    files |= _unpublished(workspace, [key for run in runs for key in run.families.values()])
    return folders, files | _notes(files)


def _unpublished(workspace: Workspace, keys: Iterable[FamilyKey]) -> set[str]:
    """Files of passes that a wanted family has not taken over: an interrupted one's are taken by the next run."""
    taken = {
        key: manifest.details.get("passes", [])
        for key in keys
        if (manifest := workspace.manifest(key.folder, key.fingerprint))
    }
    found = set()
    for key in keys:
        for folder in passes_of(workspace, key.family, key.fingerprint):
            if folder not in taken.get(key, []):
                inside = workspace.files(folder)
                found |= {workspace.relative(file.path) for file in inside if file.base_name.endswith(".parquet")}
    return found


def _notes(files: Iterable[str]) -> set[str]:
    return {"/".join([*path.split("/")[:3], PASS_NOTE]) for path in files if path.startswith(f"{PASSES}/")}


def _places(runs: Sequence[Run]) -> list[str]:
    return sorted({stage.place for run in runs for stage in run.stages})


def _delete_empty(workspace: Workspace, place: str) -> None:
    """Delete the folders that hold no file."""
    full = {str(above) for info in workspace.files(place) for above in PurePosixPath(info.path).parents}
    selector = pafs.FileSelector(workspace.path(place), recursive=True, allow_not_found=True)
    for info in sorted(workspace.filesystem.get_file_info(selector), key=lambda info: -info.path.count("/")):
        if info.type == pafs.FileType.Directory and info.path not in full:
            workspace.filesystem.delete_dir(info.path)


def _counted(workspace: Workspace, files: Iterable[pafs.FileInfo]) -> dict[str, tuple[int, int]]:
    number: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for info in files:
        parts = workspace.relative(info.path).split("/")[:-1]
        folder = "/".join(parts[: 3 if parts[0] == FAMILIES else 2])
        number[folder] += 1
        size[folder] += info.size
    return {folder: (number[folder], size[folder]) for folder in sorted(number)}
