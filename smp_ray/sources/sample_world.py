"""The sample world as a source: written once into the workspace in SMPD-Image's layout, read by its reader."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow.fs as pafs
from pydantic import Field

from smp_ray.sources.base import Intake, RawPost, Reader, SourceSettings
from smp_ray.sources.location import Location
from smp_ray.sources.smpd_image import SmpdImageReader, SmpdImageSource
from smp_ray.sources.smpd_image_fields import EXTRA_FIELDS
from smp_ray.store.manifest import fingerprint
from smp_ray.store.workspace import Workspace

#: Raised when the same size and seed give other posts.
_VERSION = 1
#: Written last: a world without it was cut short and is made anew.
_MARKER = "world.json"


class DemoSource(SourceSettings):
    """The built-in sample world: synthetic posts with rendered pictures."""

    synthetic: ClassVar[bool] = True

    kind: Literal["demo"]
    posts: int = Field(2000, ge=10, le=100_000_000, description="number of posts, train and test together")
    seed: int = Field(0, ge=0, description="the same seed and size give the same world")
    test_share: float = Field(0.1, ge=0, lt=1, description="share of posts without a published label")

    def open(self, workspace: Workspace) -> DemoReader:
        """See `SourceSettings.open`."""
        return DemoReader(self, workspace)


class DemoReader(Reader):
    """Reads the sample world of one size and seed, and makes it first where `<workspace>/world` lacks it."""

    extra_fields = EXTRA_FIELDS

    def __init__(self, source: DemoSource, workspace: Workspace) -> None:
        super().__init__(source)
        self._workspace = workspace
        self._world = source.model_dump(include={"posts", "seed", "test_share"})
        self._facts = {**self._world, "version": _VERSION}
        # Two worlds have the same ids and paths for different pictures, so the world is part of what a post is.
        self.namespace = f"world/{fingerprint('world', self._facts)}"
        place = Location(workspace.uri, workspace.filesystem, workspace.root)
        self._root = place.inside(self.namespace)

    def identify(self) -> Any:
        """Size, seed and version of the world, and where it lies, because image_uri is absolute."""
        return {"world": self._facts, "root": self._root.address("")}

    def posts(self, intake: Intake) -> Iterator[RawPost]:
        """All posts of the world, which is made first if need be; see `Reader.posts`."""
        if self._workspace.read_json(self.namespace, _MARKER) != self._facts:
            intake.progress("sample world", 0, self._world["posts"])
            self._make()
        splits = ("train", "test") if self._root.exists("test_allmetadata_json", "test_text.json") else ("train",)
        source = SmpdImageSource(kind="smpd_image", path=self._root.uri, splits=splits)
        yield from SmpdImageReader(source, self._workspace).posts(intake)

    def _make(self) -> None:
        from smp_ray.demo.world import write_world  # only who makes a world draws pictures

        self._workspace.delete_dir(self.namespace)
        target = self._workspace.make_dir(self.namespace)
        if self._workspace.is_local:
            write_world(Path(target), **self._world)
        else:
            with tempfile.TemporaryDirectory(prefix="smp-ray-world-") as folder:
                write_world(Path(folder) / "world", **self._world)
                pafs.copy_files(f"{folder}/world", target, pafs.LocalFileSystem(), self._workspace.filesystem)
        self._workspace.write_json(self._facts, self.namespace, _MARKER)
