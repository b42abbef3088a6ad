"""SMPD-Image (Flickr) in its published layout, and in the variants that are about; see arXiv 2407.00556.

The list of image paths is the list of posts; the JSON files are joined to it by (Uid, Pid), never by order. Only
line i of the labels belongs to line i of the paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import Any, Literal

import pyarrow.fs as pafs
from pydantic import Field

from smp_ray.errors import DataError
from smp_ray.sources.base import Intake, RawPost, Reader, SourceSettings
from smp_ray.sources.joined import Records, read_fields
from smp_ray.sources.json_files import json_records, text_lines
from smp_ray.sources.location import Location, files_identity, inside
from smp_ray.sources.smpd_image_fields import EXTRA_FIELDS, PARTS, lower_case, place
from smp_ray.sources.values import as_id, as_label
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
        self._image_folder = cache(self._find_image_folder)

    def identify(self) -> Any:
        """The root and the content of the metadata files. The root counts because image_uri is absolute."""
        names = [name for split in self._splits for name in (split.paths, split.labels, *split.parts.values()) if name]
        return {"root": self._location.address(""), "files": files_identity(self._location, names)}

    def posts(self, intake: Intake) -> Iterator[RawPost]:
        """All posts in the order of the image paths, split by split; see `Reader.posts`."""
        for split in self._splits:
            with closing(Records()) as records:
                self._load(split, records, intake)
                for number, (path, label) in enumerate(zip_longest(*self._lines(split)), start=1):
                    post = self._post(split, number, path, label, records, intake)
                    if post is not None:
                        yield post

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

    def _load(self, split: _Split, records: Records, intake: Intake) -> None:
        """Read the JSON files of a split; posts that are not in the list of images are rejected."""
        listed = {"/".join(ids) for path in text_lines(self._location, split.paths) if (ids := _path_ids(path))}
        for part, name in split.parts.items():
            if name is None:
                intake.count(f"missing_file_{split.name}_{part}.json")
                continue
            records.fill(part, self._keyed(name, intake), name, intake)
        text = str(split.parts["text"])
        keys = records.keys("text")
        missing = [key for key in keys if key not in listed]
        if listed and len(missing) == len(keys):
            raise DataError(
                f"{self._location.path(text)}: has the text of no post of {split.paths}; "
                "the two are joined by <Uid>/<Pid>, which are the end of the image path"
            )
        for key in missing:
            intake.reject("not_in_image_list", text, records.get("text", key), f"post {key} is not in {split.paths}")

    def _keyed(self, name: str, intake: Intake) -> Iterator[tuple[str, dict[str, Any]]]:
        """Records with their `<Uid>/<Pid>` key; those without ids are rejected."""
        for number, record in enumerate(json_records(self._location, name), start=1):
            if number % _REPORT_EVERY == 0:
                intake.progress(name.rpartition("/")[2], number, None)
            try:
                fields = lower_case(record)
                user_id, post_id = as_id(fields.get("uid")), as_id(fields.get("pid"))
            except (AttributeError, ValueError):  # no object, or ids that are none
                user_id = post_id = None
            if user_id and post_id:
                yield f"{user_id}/{post_id}", fields
            else:
                intake.reject("without_ids", name, record, f"record {number}: no Uid or no Pid")

    def _lines(self, split: _Split) -> tuple[Iterator[str], Iterator[str]]:
        """The image paths, and the labels without their header."""
        paths = text_lines(self._location, split.paths)
        if split.labels is None:
            return paths, iter(())
        labels = text_lines(self._location, split.labels)
        if self._has_header(split, split.labels):
            next(labels)
        return paths, labels

    def _has_header(self, split: _Split, labels: str) -> bool:
        """Whether the first label line is a header: by its word, or because it makes one line too many."""
        first = next(text_lines(self._location, labels), "")
        try:
            float(first)
            return False
        except ValueError:
            pass
        if first.strip("\"'").lower() in _HEADERS:
            return True
        count = sum(1 for _ in text_lines(self._location, labels))
        return count == 1 + sum(1 for _ in text_lines(self._location, split.paths))

    def _post(
        self, split: _Split, number: int, path: str | None, label: str | None, records: Records, intake: Intake
    ) -> RawPost | None:
        if path is None:
            intake.reject("label_without_image", str(split.labels), label, f"label {number} has no image path")
            return None
        relative, ids = inside(path), _path_ids(path)
        if relative is None or ids is None:
            kind = "without_ids"
            reason = "not an image path that ends in <Uid>/<Pid>.jpg" if path else "the image path is empty"
            if path and relative is None:
                kind, reason = "image_path", "the image path leaves the dataset's folder"
            intake.reject(kind, split.paths, path, f"line {number}: {reason}")
            return None
        first, _, rest = relative.partition("/")
        values: dict[str, Any] = {
            "post_id": ids[1], "user_id": ids[0], "split": split.name,
            "image_uri": self._location.address(f"{self._image_folder(first)}/{rest}"),
        }  # fmt: skip
        if split.labels is not None:
            try:
                values["popularity"] = as_label(label, given=True)
            except ValueError as error:
                reason = f"label of line {number}: " + ("there is none" if label is None else str(error))
                intake.reject("label", split.labels, {"path": path, "label": label}, reason)
                return None
        for part, name in split.parts.items():
            record = records.get(part, "/".join(ids))
            if record is not None:
                read_fields(values, record, PARTS[part], intake)
            elif name is not None:
                intake.count(f"without_{part}")
        place(values)
        return RawPost(values, image_reference=path, source_file=split.paths)

    def _find_image_folder(self, listed: str) -> str:
        """The folder of images under either of its two names."""
        other = _IMAGE_FOLDERS.get(listed, listed)
        kinds = [self._location.kind(name) for name in (listed, other)]
        return other if pafs.FileType.Directory in kinds and kinds[0] != pafs.FileType.Directory else listed


def _path_ids(path: str) -> tuple[str, str] | None:
    """(Uid, Pid) of an image path that ends in `<Uid>/<Pid>.<suffix>`."""
    folder, slash, name = (inside(path) or "").rpartition("/")
    user_id, post_id = folder.rpartition("/")[2].strip(), (name.rpartition(".")[0] or name).strip()
    return (user_id, post_id) if slash and user_id and post_id else None
