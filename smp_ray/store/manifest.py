"""What an artefact is and how it came to be: its manifest, its files, and the fingerprint that it is known by."""

import hashlib
import importlib.metadata
import json
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from smp_ray import __version__

MANIFEST = "manifest.json"
_LIBRARIES = ("ray", "torch", "open_clip_torch", "transformers", "lightgbm", "pandas", "pyarrow")


@dataclass(frozen=True)
class Fragment:
    """One Parquet file of an artefact; `path` is relative to the workspace."""

    path: str
    rows: int
    bytes: int


@dataclass
class Manifest:
    """What an artefact is and how it came to be."""

    stage: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, Any] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    wall_seconds: float = 0.0
    rows_per_second: float = 0.0
    fragments: list[Fragment] = field(default_factory=list)
    #: Facts of one kind of artefact (the feature families keep here which posts artefacts they cover).
    details: dict[str, Any] = field(default_factory=dict)
    created_at: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None

    def file(self, name: str) -> Fragment:
        """The fragment of this file name; the artefact has it."""
        return next(fragment for fragment in self.fragments if fragment.path.endswith(f"/{name}"))

    @property
    def content(self) -> Any:
        """What its rows are to those that read them: files computed again have other names, compacted ones keep it."""
        return self.details.get("content", [fragment.path for fragment in self.fragments])


@dataclass
class Made:
    """What a stage has made, before the runner adds how it came to be and commits it.

    Attributes:
        rows: posts, trials or whatever the artefact counts.
        counts: rows by status or kind.
        details: facts that readers of the artefact need; "warnings" are said to the user, without the files of
            "outputs" (relative to the workspace) the artefact is made again, and hashes of its parts in "contents" are
            what those who read it depend on, instead of its fingerprint.
        note: what was made, in a few words for the user.
    """

    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    fragments: list[Fragment] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits of the canonical JSON of `parts`: equal parts, equal fingerprint, on any machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def content_of(data: bytes) -> str:
    """32 hexadecimal digits of what a file holds."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """Versions of this package and of the libraries that the numbers depend on."""
    return {"smp-ray": __version__, **{name: importlib.metadata.version(name) for name in _LIBRARIES}}


@cache
def git_commit() -> str | None:
    """Commit of the source tree this package runs from, with `-dirty` if changed; None outside a checkout."""
    root = Path(__file__).parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty", "--match", "no-tags"]
    if (root / ".git").exists():
        with suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip() or None
    return None
