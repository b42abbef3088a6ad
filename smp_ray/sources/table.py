"""One's own table of posts: CSV, Parquet or JSON-lines files with mapped columns.

Nothing is guessed: a row with a value that cannot be read is rejected with the column, what was found and what is
allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from copy import copy
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa
from pydantic import Field, field_validator

from smp_ray.errors import ConfigError
from smp_ray.sources import values as read
from smp_ray.sources.base import Intake, RawPost, Reader, SourceSettings
from smp_ray.sources.location import Location, files_identity, inside
from smp_ray.sources.table_files import Format, table_columns, table_files, table_rows
from smp_ray.store.address import masked
from smp_ray.store.workspace import Workspace

#: Addresses that are taken as they are; whoever fetches the image opens them.
_FETCHED = ("http", "https", "s3", "gs")


def _split(value: Any) -> str | None:
    found = (read.as_id(value) or "").lower()
    if found not in ("train", "test", ""):
        raise ValueError(f"found {value!r}, allowed: train or test")
    return found or None


def _tags(value: Any) -> list[str] | None:
    return read.as_texts(value, "," if isinstance(value, str) and "," in value else None)


def _image(value: Any) -> str | bytes | None:
    """What a row says of its image: bytes, a text, or Hugging Face's pair of both; empty means none."""
    if isinstance(value, dict) and value.keys() & {"bytes", "path"}:
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value or None
    return read.as_id(value)


#: How the value of each column is read; `user_<name>` columns that are not here are numbers.
READINGS: dict[str, Callable[[Any], Any]] = {
    "post_id": read.as_id,
    "user_id": read.as_id,
    "split": _split,
    "title": read.as_text,
    "tags": _tags,
    "text_language": read.as_id,
    "media_type": read.as_id,
    "image": _image,
    "posted_at": read.as_time,
    "latitude": read.as_latitude,
    "longitude": read.as_longitude,
    "geo_accuracy": read.as_number,
    "category": read.as_id,
    "subcategory": read.as_id,
    "concept": read.as_id,
    "popularity": read.as_label,
}
#: The columns that a table may fill (besides any `user_<name>` number).
TABLE_COLUMNS = tuple(READINGS)


class TableSource(SourceSettings):
    """One's own table of posts: CSV, Parquet or JSON-lines."""

    kind: Literal["table"]
    path: str = Field(description="a file or folder; local, s3:// or gs://")
    format: Literal["auto", Format] = "auto"
    columns: dict[str, str] = Field(description="column of the posts table -> column of the file")
    image_root: str | None = Field(None, description="folder of relative image paths; default: the table's folder")

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        if "post_id" not in columns:
            raise ValueError("needs a 'post_id' entry")
        for name in columns:
            if name not in TABLE_COLUMNS and not name.startswith("user_"):
                raise ValueError(f"'{name}' is not one of {', '.join(TABLE_COLUMNS)} or user_<number>")
        return columns

    def open(self, workspace: Workspace) -> TableReader:
        """See `SourceSettings.open`."""
        return TableReader(self, workspace)


def table_like(path: str, other: SourceSettings, numbers: Container[str]) -> dict[str, Any]:
    """The section that reads a table with the columns of another source; those it lacks by their own names.

    Popularity and split are not read: the posts are there to be scored. Of `user_<name>` columns those among `numbers`
    are. Pictures lie where the other source has them; the posts table's own `image_uri` says where.

    Raises:
        ConfigError: it has no column of ids.
        DataError: it cannot be read.
    """
    there = table_columns(path)
    mapping = other.columns if isinstance(other, TableSource) else {}
    mapped = {name: column for name, column in mapping.items() if column in there}
    own = [name for name in there if name in TABLE_COLUMNS or (name.startswith("user_") and name in numbers)]
    columns = {name: name for name in own if name not in mapped.values()} | mapped
    columns = {name: column for name, column in columns.items() if name not in ("popularity", "split")}
    if "post_id" not in columns:
        needed = " or ".join(dict.fromkeys([mapping.get("post_id", "post_id"), "post_id"]))
        raise ConfigError(f"{path}: has no column {needed}; it has {', '.join(there[:20]) or 'none'}")
    root = other.image_root if isinstance(other, TableSource) else None
    if "image_uri" in there and "image" not in columns:
        columns["image"], root = "image_uri", "/"
    return {"kind": "table", "path": path, "columns": columns, "image_root": root}


class TableReader(Reader):
    """Reads a file, or all files of one format in a folder, in the order of their names."""

    def __init__(self, source: TableSource, workspace: Workspace) -> None:
        super().__init__(source)
        self._workspace = workspace
        self._columns = source.columns
        self.extra_fields = [pa.field(name, pa.float64()) for name in sorted(self._columns) if name not in READINGS]
        self._location, self._files, self._format = table_files(source.path, source.format)
        self._images = self._location if source.image_root is None else Location.open(source.image_root)

    def identify(self) -> Any:
        """The content of the table's files, and the folder of relative image paths, because image_uri is absolute."""
        files = files_identity(self._location, self._files, self._workspace)
        return {"files": files, "images": self._images.address("") if "image" in self._columns else None}

    def pieces(self) -> Sequence[Reader]:
        """The files; where they lie, and how that was found out, does not count for them."""
        source = self.source.model_copy(update={"path": "", "format": self._format, "image_root": None})
        found = []
        for entry in self.identity["files"]:
            piece = copy(self)
            piece.source, piece._files = source, [entry["name"]]
            piece.identity = {**self.identity, "files": [entry]}
            found.append(piece)
        return found

    def posts(self, intake: Intake) -> Iterator[RawPost]:
        """All rows of all files; see `Reader.posts`."""
        wanted = list(dict.fromkeys(self._columns.values()))
        for name in self._files:
            for position, record in table_rows(self._location, name, self._format, wanted, intake):
                post = self._post(record, position, name, intake)
                if post is not None:
                    yield post

    def _post(self, record: dict[str, Any], position: str, file: str, intake: Intake) -> RawPost | None:
        values: dict[str, Any] = {}
        reference: str | bytes | None = None
        for column, name in self._columns.items():
            try:
                value = READINGS.get(column, read.as_flag)(record.get(name))
                if column != "image":
                    values[column] = value
                elif isinstance(value, bytes):
                    reference = values["image_bytes"] = value
                elif value is not None:
                    reference, values["image_uri"] = value, self._address(value)
            except ValueError as error:
                kind = "label" if column == "popularity" else column
                intake.reject(kind, file, record, f"{position}: {column}: {error}")
                return None
        if values["post_id"] is None:
            intake.reject("without_ids", file, record, f"{position}: no {self._columns['post_id']}")
            return None
        values["split"] = values.get("split") or ("test" if values.get("popularity") is None else "train")
        return RawPost(values, reference, file)

    def _address(self, reference: str) -> str:
        """What image_uri says for an image that is named, not held."""
        scheme = reference.partition("://")[0].lower() if "://" in reference else ""
        if scheme in _FETCHED:
            return masked(reference)
        path = unquote(reference.removeprefix("file://")) if scheme == "file" else reference
        if self._images.is_local:
            path = path.removeprefix(self._images.root.rstrip("/") + "/")
        relative = inside(path)
        if relative is None or path.lower().startswith("data:"):
            allowed = f"a path inside {self._images.address('')} (source.image_root names another folder), or a URL"
            raise ValueError(f"found {reference[:200]!r}, allowed: {allowed}")
        return self._images.address(relative)
