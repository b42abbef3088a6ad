"""SMPD-Image (Flickr) in its published layout, and in the variants that are about; see arXiv 2407.00556.

The list of image paths is the list of posts; the JSON files are joined to it by (Uid, Pid), never by order. Only
line i of the labels belongs to line i of the paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import Any, Literal

import pyarrow.fs as pafs
from pydantic import Field

from smp_ray.errors import DataError
from smp_ray.sources.base import Intake, RawPost, Reader, SourceSettings
from smp_ray.sources.joined import Records, lower_case, read_fields
from smp_ray.sources.json_files import json_records, text_lines
from smp_ray.sources.location import Location, files_identity, inside
from smp_ray.sources.smpd_image_fields import EXTRA_FIELDS, PARTS
from smp_ray.sources.values import as_label
from smp_ray.store.workspace import Workspace

#: First lines of a label file that are a header whatever the number of lines.
_HEADERS = ("label", "labels", "popularity", "popularity_score", "score")
#: The two folders of images that are about, for one list of paths.
_IMAGE_FOLDERS = (("train", "SMP_train_images"), ("test", "SMP_test_images"))


class SmpdImageSource(SourceSettings):
    """SMPD-Image (Flickr) in its published layout."""

    kind: Literal["smpd_image"]
    path: str = Field(description="the dataset's root folder")
    splits: tuple[Literal["train", "test"], ...] = Field(("train", "test"), min_length=1)

    def open(self, workspace: Workspace) -> SmpdImageReader:
        """See `SourceSettings.open`."""
        return SmpdImageReader(self, workspace)


class SmpdImageReader(Reader):
    """Reads SMPD-Image from its root folder, local or remote."""

    extra_fields = EXTRA_FIELDS

    def __init__(self, source: SmpdImageSource, workspace: Workspace) -> None:
        super().__init__(source)
        self._workspace = workspace
        self._location = Location.open(source.path)
        if self._location.kind() != pafs.FileType.Directory:
            raise DataError(f"{self._location.uri}: no such folder; source.path is the root of SMPD-Image")
        self._files = {split: self._find(split) for split in source.splits}
        self._image_folders: dict[str, str] = {}
        for names in _IMAGE_FOLDERS:
            there = [name for name in names if self._location.kind(name) == pafs.FileType.Directory]
            if len(there) == 1:
                self._image_folders.update(dict.fromkeys(names, there[0]))

    def identify(self) -> Any:
        """The root and the content of the metadata files. The root counts because image_uri is absolute."""
        names = [name for files in self._files.values() for name in files.values()]
        files = files_identity(self._location, names, self._workspace)
        return {"root": self._location.address(""), "files": files}

    def posts(self, intake: Intake) -> Iterator[RawPost]:
        """All posts in the order of the image paths, split by split; see `Reader.posts`."""
        for split, files in self._files.items():
            records = Records()
            for part in PARTS:
                if part in files:
                    found = enumerate(json_records(self._location, files[part]), start=1)
                    numbered = ((f"record {number}", record) for number, record in found)
                    records.fill(part, files[part], numbered, ("Uid", "Pid"), intake)
                else:
                    intake.counts[f"missing_file_{split}_{part}.json"] += 1
            listed: set[str] = set()
            lines = zip_longest(text_lines(self._location, files["paths"]), self._labels(files))
            for number, (path, label) in enumerate(lines, start=1):
                if path is None:
                    intake.reject("label_without_image", files["labels"], label, f"label {number} has no image path")
                    continue
                try:
                    relative, ids = _image(path)
                except ValueError as error:
                    intake.reject("image_path", files["paths"], path, f"line {number}: {error}")
                    continue
                listed.add("/".join(ids))
                first, _, rest = relative.partition("/")
                uri = self._location.address(f"{self._image_folders.get(first, first)}/{rest}")
                values: dict[str, Any] = {"post_id": ids[1], "user_id": ids[0], "split": split, "image_uri": uri}
                try:
                    values["popularity"] = as_label(label, given=True) if "labels" in files else None
                except ValueError as error:
                    reason = f"label of line {number}: " + ("there is none" if label is None else str(error))
                    intake.reject("label", files["labels"], {"path": path, "label": label}, reason)
                    continue
                self._join(values, records, files, intake)
                yield RawPost(values, image_reference=path, source_file=files["paths"])
            self._reject_unlisted(records, listed, files, intake)

    def _find(self, split: str) -> dict[str, str]:
        """The files of a split, relative to the root: in the metadata folder or, as in some copies, in the root."""
        folder = f"{split}_allmetadata_json"
        if self._location.kind(folder) == pafs.FileType.NotFound:
            raise DataError(
                f"{self._location.path(folder)}: no such folder, so there is no {split} split; name the splits there "
                f"are with source.splits"
            )
        spellings = {"paths": [f"{split}_img_filepath.txt", f"{split}_img_path.txt"]}
        spellings |= {part: [f"{split}_{part}.json"] for part in PARTS}
        if split == "train":
            spellings["labels"] = ["train_label.txt"]
        files = {}
        for part, names in spellings.items():
            there = [name for name in (*(f"{folder}/{name}" for name in names), *names) if self._location.is_file(name)]
            if there:
                files[part] = there[0]
            elif part in ("paths", "text", "labels"):
                raise DataError(f"{self._location.path(folder)}: no {' nor '.join(names)}, which every post needs")
        return files

    def _labels(self, files: dict[str, str]) -> Iterator[str]:
        """The labels without their header: one of `_HEADERS`, or one line too many that is no number."""
        if "labels" not in files:
            return iter(())
        first = next(text_lines(self._location, files["labels"]), "")
        header = first.strip("\"'").lower() in _HEADERS
        if not header and not re.match(r"[-+]?\.?\d", first):
            paths, labels = (sum(1 for _ in text_lines(self._location, files[name])) for name in ("paths", "labels"))
            header = labels == paths + 1
        return islice(text_lines(self._location, files["labels"]), int(header), None)

    def _join(self, values: dict[str, Any], records: Records, files: dict[str, str], intake: Intake) -> None:
        """Read the columns of a post from its records."""
        for part in PARTS:
            record = records.get(part, f"{values['user_id']}/{values['post_id']}")
            if record is not None:
                fields = lower_case(record)
                fields.setdefault("title", fields.get("tile"))  # as in the documentation
                read_fields(values, fields, PARTS[part], intake)
            elif part in files:
                intake.counts[f"without_{part}"] += 1
        if [values.get(name) for name in ("latitude", "longitude", "geo_accuracy")] == [0, 0, 0]:
            values["latitude"] = None  # Flickr writes this for no place

    def _reject_unlisted(self, records: Records, listed: set[str], files: dict[str, str], intake: Intake) -> None:
        """Reject the texts of posts that are not in the list of images."""
        there = False
        for key, record in records.items("text"):
            if key in listed:
                there = True
            else:
                intake.reject("not_in_image_list", files["text"], record, f"post {key} is not in {files['paths']}")
        if listed and not there:
            raise DataError(
                f"{self._location.path(files['text'])}: has the text of no post of {files['paths']}; "
                "the two are joined by <Uid>/<Pid>, which are the end of the image path"
            )


def _image(path: str) -> tuple[str, list[str]]:
    """An image path in its simplest form, and its Uid and Pid."""
    relative = inside(path)
    if relative is None:
        raise ValueError("the image path leaves the dataset's folder" if path else "the image path is empty")
    *_, folder, name = ["", *relative.split("/")]
    ids = [folder.strip(), (name.rpartition(".")[0] or name).strip()]
    if not all(ids):
        raise ValueError("not an image path that ends in <Uid>/<Pid>.jpg")
    return relative, ids
