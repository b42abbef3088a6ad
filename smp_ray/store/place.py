"""A folder or an object-store prefix on a pyarrow filesystem: how workspace, raw data and images are all opened."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pyarrow.fs as pafs

from smp_ray.errors import SmpRayError, WorkspaceError


@dataclass(frozen=True)
class Place:
    """A root on a filesystem. Paths given to its methods are relative to the root; "" is the root itself."""

    #: What is raised where the place cannot be opened.
    problem: ClassVar[type[SmpRayError]] = WorkspaceError

    uri: str
    filesystem: pafs.FileSystem
    root: str

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open a local path or a URI (`s3://bucket/prefix?endpoint_override=…`, `gs://`, `file://`).

        Raises:
            SmpRayError: the address is not one that pyarrow can open.
        """
        if "://" not in uri:
            return cls(uri, pafs.LocalFileSystem(), str(Path(uri).expanduser().absolute()))
        try:
            filesystem, root = pafs.FileSystem.from_uri(uri)
        except (OSError, ValueError) as error:
            raise cls.problem(f"{uri}: cannot be opened: {' '.join(str(error).split())}") from None
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
        with self.filesystem.open_input_stream(self.path(*parts)) as stream:
            return bytes(stream.read())

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
