"""The sample world as a source: written once into the workspace in SMPD-Image's layout, read by its reader."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from smp_ray.config import DemoSource, SmpdImageSource
from smp_ray.sources.base import Intake, RawPost
from smp_ray.sources.location import Location
from smp_ray.sources.smpd_image import SmpdImageReader
from smp_ray.sources.smpd_image_fields import EXTRA_FIELDS
from smp_ray.workspace import Workspace, fingerprint

#: Written last: a world without it was cut short and is made anew.
_MARKER = "world.json"


class DemoReader:
    """Reads the sample world of one size and seed, and makes it first where `<workspace>/world` lacks it."""

    def __init__(self, source: DemoSource, workspace: Workspace) -> None:
        from smp_ray.demo import world  # only this source draws pictures

        self._source = source
        self._workspace = workspace
        self._facts = {
            "posts": source.posts,
            "seed": source.seed,
            "test_share": source.test_share,
            "version": getattr(world, "WORLD_VERSION", 1),
        }
        self._folder = f"world/{fingerprint('world', self._facts)}"
        # Two worlds have the same ids and paths for different pictures, so the world is part of what a post is.
        self.namespace = self._folder

    @property
    def extra_fields(self) -> list[pa.Field]:
        """Those of SMPD-Image."""
        return EXTRA_FIELDS

    def identity(self) -> Any:
        """Size, seed and version of the world, and where it lies, because image_uri is absolute."""
        return {"world": self._facts, "root": self._root().address("")}

    def posts(self, intake: Intake) -> Iterator[RawPost]:
        """All posts of the world, which is made first if need be; see `Reader.posts`."""
        if self._workspace.read_json(self._folder, _MARKER) != self._facts:
            intake.progress("sample world", 0, self._source.posts)
            self._make()
        splits = ("train", "test") if self._root().is_file("test_allmetadata_json/test_text.json") else ("train",)
        root = SmpdImageSource(kind="smpd_image", path=self._root().uri, splits=splits)
        yield from SmpdImageReader(root, self.namespace).posts(intake)

    def _root(self) -> Location:
        base, _, query = self._workspace.uri.partition("?")
        uri = f"{base.rstrip('/')}/{self._folder}" + (f"?{query}" if query else "")
        return Location(uri=uri, filesystem=self._workspace.filesystem, root=self._workspace.path(self._folder))

    def _make(self) -> None:
        from smp_ray.demo.world import write_world

        self._workspace.delete_dir(self._folder)
        options = (self._source.posts, self._source.seed)
        if isinstance(self._workspace.filesystem, pafs.LocalFileSystem):
            write_world(Path(self._workspace.make_dir(self._folder)), *options, test_share=self._source.test_share)
        else:
            with tempfile.TemporaryDirectory(prefix="smp-ray-world-") as folder:
                write_world(Path(folder) / "world", *options, test_share=self._source.test_share)
                target = self._workspace.make_dir(self._folder)
                pafs.copy_files(f"{folder}/world", target, pafs.LocalFileSystem(), self._workspace.filesystem)
        self._workspace.write_json(self._facts, self._folder, _MARKER)
