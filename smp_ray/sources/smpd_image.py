"""SMPD-Image (Flickr) in its published layout, and in the variants that are about; see paper.md, The datasets.

The list of image paths is the list of posts; the JSON files are joined to it by (Uid, Pid), never by order. Only
line i of the labels belongs to line i of the paths.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import pyarrow.fs as pafs
from pydantic import Field

from smp_ray.errors import DataError
from smp_ray.sources.base import Intake, RawPost, Reader, SourceSettings
from smp_ray.sources.json_stream import JsonText, text_lines
from smp_ray.sources.location import Location, files_identity, inside
from smp_ray.sources.record_store import RecordStore
from smp_ray.sources.smpd_image_fields import EXTRA_FIELDS, PARTS, fill_part, place, record_ids
from smp_ray.sources.values import as_label
from smp_ray.store.workspace import Workspace

#: First lines of a label file that are a header whatever the number of lines.
_HEADERS = frozenset({"label", "labels", "popularity", "popularity_score", "score"})
#: The two folders of images that are about, for one list of paths.
_IMAGE_FOLDERS = {
    "train": "SMP_train_images", "SMP_train_images": "train", "test": "SMP_test_images", "SMP_test_images": "test",
}  # fmt: skip
_REPORT_EVERY = 10_000


class SmpdImageSource(SourceSettings):
    """SMPD-Image (Flickr) in its published layout."""

    kind: Literal["smpd_image"]
    path: str = Field(description="the dataset's root folder")
    splits: tuple[Literal["train", "test"], ...] = Field(("train", "test"), min_length=1)

    def open(self, workspace: Workspace) -> SmpdImageReader:
        """See `SourceSettings.open`."""
        return SmpdImageReader(self)


@dataclass(frozen=True)
class _Split:
    """The files of one split, relative to the root; None where one is not there."""

    name: str
    paths: str
    labels: str | None
    parts: dict[str, str | None]

    def files(self) -> list[str]:
        return [name for name in (self.paths, self.labels, *self.parts.values()) if name is not None]


class SmpdImageReader(Reader):
    """Reads SMPD-Image from its root folder, local or remote."""

    extra_fields = EXTRA_FIELDS

    def __init__(self, source: SmpdImageSource, namespace: str = "") -> None:
        super().__init__(source)
        self.namespace = namespace
        self._location = Location.open(source.path)
        if self._location.kind() != pafs.FileType.Directory:
            raise DataError(f"{self._location.uri}: no such folder; source.path is the root of SMPD-Image")
        self._splits = [self._find(split) for split in dict.fromkeys(source.splits)]

    def identify(self) -> Any:
        """The root and the content of the metadata files. The root counts because image_uri is absolute."""
        names = [name for split in self._splits for name in split.files()]
        return {"root": self._location.address(""), "files": files_identity(self._location, names)}

    def posts(self, intake: Intake) -> Iterator[RawPost]:
        """All posts in the order of the image paths, split by split; see `Reader.posts`."""
        for split in self._splits:
            with RecordStore() as store:
                yield from self._read(split, store, intake)

    def _find(self, split: str) -> _Split:
        folder = f"{split}_allmetadata_json"
        if self._location.kind(folder) == pafs.FileType.NotFound:
            raise DataError(
                f"{self._location.path(folder)}: no such folder, so there is no {split} split; name the splits there "
                f"are with source.splits"
            )
        paths = self._first_of(folder, f"{split}_img_filepath.txt", f"{split}_img_path.txt")
        parts = {part: self._first_of(folder, f"{split}_{part}.json") for part in PARTS}
        if paths is None or parts["text"] is None:
            missing = f"{split}_text.json" if paths else f"{split}_img_filepath.txt (nor {split}_img_path.txt)"
            raise DataError(f"{self._location.path(folder)}: no {missing}, without it there are no posts")
        labels = self._first_of(folder, f"{split}_label.txt") if split == "train" else None
        if split == "train" and labels is None:
            raise DataError(f"{self._location.path(folder)}: no train_label.txt, so the training posts have no labels")
        return _Split(split, paths, labels, parts)

    def _first_of(self, folder: str, *names: str) -> str | None:
        """The first of the names that is there, in the metadata folder or, as in some copies, in the root."""
        places = [*(f"{folder}/{name}" for name in names), *names]
        return next((place for place in places if self._location.is_file(place)), None)

    def _read(self, split: _Split, store: RecordStore, intake: Intake) -> Iterator[RawPost]:
        for part, name in split.parts.items():
            self._load(store, part, name, split, intake)
        store.fill("listed", self._listed_keys(split.paths))
        text = str(split.parts["text"])
        if store.has_records("listed") and not store.shares_keys("text", "listed"):
            raise DataError(
                f"{self._location.path(text)}: has the text of no post of {split.paths}; "
                "the two are joined by <Uid>/<Pid>, which are the end of the image path"
            )
        for key, record in store.missing_in("text", "listed"):
            intake.reject("not_in_image_list", text, record, f"post {key} is not in {split.paths}")
        has_header = self._has_header(split)
        labels: Iterable[str] = ()
        if split.labels is not None:
            labels = text_lines(self._location, split.labels)
            if has_header:
                next(iter(labels))
        folder = _ImageFolders(self._location)
        lines = zip_longest(text_lines(self._location, split.paths), labels)
        for number, (path, label) in enumerate(lines, start=1):
            post = self._post(split, number, path, label, folder, store, intake)
            if post is not None:
                yield post

    def _load(self, store: RecordStore, part: str, name: str | None, split: _Split, intake: Intake) -> None:
        if name is None:
            intake.count(f"missing_file_{split.name}_{part}.json")
            store.fill(part, ())
            return
        with self._location.stream(name) as stream:
            text = JsonText(stream, self._location.path(name))
            first = text.peek()
            if first == "{":
                records: Iterator[tuple[Any, str]] = ((row, json.dumps(row)) for row in store.pivot(text.cells()))
            elif first == "[":
                records = text.records()
            else:
                found = f"found {first!r}" if first else "an empty file"
                raise text.failure(f"{found}, allowed: a list of records or an object of columns")
            store.fill(part, _keyed(records, name, intake))
        store.reject_repeats(part, name, intake)

    def _listed_keys(self, paths: str) -> Iterator[tuple[str, str]]:
        for path in text_lines(self._location, paths):
            ids = _path_ids(path)
            if ids is not None:
                yield "/".join(ids), ""

    def _has_header(self, split: _Split) -> bool:
        """Whether the first label line is a header: by its word, or because it makes one line too many."""
        if split.labels is None:
            return False
        first = next(iter(text_lines(self._location, split.labels)), "")
        try:
            float(first)
            return False
        except ValueError:
            pass
        if first.strip("\"'").lower() in _HEADERS:
            return True
        count = sum(1 for _ in text_lines(self._location, split.labels))
        return count == 1 + sum(1 for _ in text_lines(self._location, split.paths))

    def _post(
        self, split: _Split, number: int, path: str | None, label: str | None,
        folder: _ImageFolders, store: RecordStore, intake: Intake,
    ) -> RawPost | None:  # fmt: skip
        if path is None:
            intake.reject("label_without_image", str(split.labels), label, f"label {number} has no image path")
            return None
        relative, ids = inside(path), _path_ids(path)
        if relative is None:
            kind, reason = ("image_path", "leaves the dataset's folder") if path else ("without_ids", "is empty")
            intake.reject(kind, split.paths, path, f"line {number}: the image path {reason}")
            return None
        if ids is None:
            reason = f"line {number}: not an image path that ends in <Uid>/<Pid>.jpg"
            intake.reject("without_ids", split.paths, path, reason)
            return None
        user_id, post_id = ids
        values: dict[str, Any] = {
            "post_id": post_id, "user_id": user_id, "split": split.name,
            "image_uri": self._location.address(folder.resolve(relative)),
        }  # fmt: skip
        if split.labels is not None:
            try:
                values["popularity"] = as_label(label, given=True)
            except ValueError as error:
                reason = f"label of line {number}: " + ("there is none" if label is None else str(error))
                intake.reject("label", split.labels, {"path": path, "label": label}, reason)
                return None
        for part, name in split.parts.items():
            record = store.get(part, f"{user_id}/{post_id}") if name is not None else None
            if record is not None:
                fill_part(part, record, values, intake)
            elif name is not None:
                intake.count(f"without_{part}")
        place(values)
        return RawPost(values, image_reference=path, source_file=split.paths)


class _ImageFolders:
    """Finds the folder of images under either of its two names, asking the filesystem once for each."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._real: dict[str, str] = {}

    def resolve(self, relative: str) -> str:
        first, slash, rest = relative.partition("/")
        if first not in self._real:
            other = _IMAGE_FOLDERS.get(first)
            moved = other is not None and not self._is_folder(first) and self._is_folder(other)
            self._real[first] = other if other is not None and moved else first
        return self._real[first] + slash + rest

    def _is_folder(self, name: str) -> bool:
        return bool(self._location.kind(name) == pafs.FileType.Directory)


def _path_ids(path: str) -> tuple[str, str] | None:
    """(Uid, Pid) of an image path that ends in `<Uid>/<Pid>.<suffix>`."""
    relative = inside(path)
    if relative is None or "/" not in relative:
        return None
    folder, _, name = relative.rpartition("/")
    user_id, post_id = folder.rpartition("/")[2].strip(), (name.rpartition(".")[0] or name).strip()
    return (user_id, post_id) if user_id and post_id else None


def _keyed(records: Iterator[tuple[Any, str]], name: str, intake: Intake) -> Iterator[tuple[str, str]]:
    """Records with their `<Uid>/<Pid>` key; those without ids are rejected."""
    for number, (record, text) in enumerate(records, start=1):
        if number % _REPORT_EVERY == 0:
            intake.progress(name.rpartition("/")[2], number, None)
        ids = record_ids(record)
        if ids is None:
            intake.reject("without_ids", name, text, f"record {number}: no Uid or no Pid")
        else:
            yield "/".join(ids), text
