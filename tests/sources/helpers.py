"""Raw datasets in small, and the shortest way to ingest one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import TypeAdapter

from smp_ray.sources import Reader, SourceSettings, ingest, source_type
from smp_ray.store.manifest import Made, fingerprint
from smp_ray.store.workspace import Workspace

PARTS = ("text", "category", "temporalspatial_information", "user_data", "additional_information")


@dataclass
class Taken:
    """What an ingest left: the posts by post_id, and the rejections."""

    made: Made
    posts: dict[str, dict[str, Any]]
    rejected: list[dict[str, str]]

    @property
    def reasons(self) -> str:
        return "\n".join(entry["reason"] for entry in self.rejected)


def section(**source: Any) -> SourceSettings:
    """The section of a source, checked as the configuration checks it."""
    found: SourceSettings = TypeAdapter(source_type()).validate_python(source)
    return found


def folder_of(reader: Reader) -> str:
    """A folder for each section and state of the raw data, as the runner of stages gives."""
    return f"ingest/{fingerprint(reader.source.model_dump(mode='json'), reader.identity)}"


def take(workspace: str | Path, **source: Any) -> Taken:
    """Ingest a source section into a workspace and read back what it wrote."""
    place = Workspace.open(str(workspace))
    reader = section(**source).open(place)
    made = ingest(reader, place, folder_of(reader))
    rows: list[dict[str, Any]] = []
    for fragment in made.fragments:
        table = pq.read_table(place.path(fragment.path), filesystem=place.filesystem)
        assert table.num_rows == fragment.rows
        rows += table.to_pylist()
    rejected = pq.read_table(place.path(made.details["rejected"]), filesystem=place.filesystem).to_pylist()
    assert len(rows) == made.rows == made.counts["accepted"]
    assert len(rejected) == made.counts["rejected"]
    return Taken(made, {row["post_id"]: row for row in rows}, rejected)


@dataclass
class SmpdFiles:
    """One split of SMPD-Image that can be bent before it is written."""

    root: Path
    split: str = "train"
    parts: dict[str, Any] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, root: Path, posts: int = 3, split: str = "train", first: int = 1) -> SmpdFiles:
        files = cls(root, split, {part: [] for part in PARTS})
        for number in range(first, first + posts):
            uid, pid = f"{number % 2}@N0", str(number)
            keys = {"Uid": uid, "Pid": pid}
            files.parts["text"].append({**keys, "Title": f"title {pid}", "Mediatype": "photo", "Alltags": "a  b"})
            files.parts["category"].append({**keys, "Category": "Animal", "Subcategory": "cat", "Concept": "kitten"})
            files.parts["temporalspatial_information"].append(
                {**keys, "Postdate": "1425456000", "Latitude": "48.5", "Longitude": "-2.25", "Geoaccuracy": "16"}
            )
            files.parts["user_data"].append(
                {
                    **keys, "photo_firstdate": "1255126064", "photo_count": "12", "ispro": "1", "canbuypro": "0",
                    "timezone_offset": "-03:30", "photo_firstdatetaken": "2007-09-07 00:00:00", "timezone_id": "12",
                    "user_description": "0.5,-1e-3,2", "location_description": "",
                }
            )  # fmt: skip
            files.parts["additional_information"].append(
                {**keys, "Pathalias": "ann", "Ispublic": "1", "Mediastatus": "ready"}
            )
            files.paths.append(f"{split}/{uid}/{pid}.jpg")
            files.labels.append(f"{number}.5")
        return files

    @property
    def folder(self) -> Path:
        return self.root / f"{self.split}_allmetadata_json"

    def write(self) -> SmpdFiles:
        self.folder.mkdir(parents=True, exist_ok=True)
        for part, records in self.parts.items():
            (self.folder / f"{self.split}_{part}.json").write_text(json.dumps(records), encoding="utf-8")
        (self.folder / f"{self.split}_img_filepath.txt").write_text("".join(path + "\n" for path in self.paths))
        if self.split == "train":
            (self.folder / "train_label.txt").write_text("".join(label + "\n" for label in self.labels))
        return self


def columnar(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A list of records as pandas writes a frame: an object of columns."""
    return {key: {str(row): record[key] for row, record in enumerate(records)} for key in records[0]}


def take_smpd(files: SmpdFiles, splits: tuple[str, ...] = ("train",), write: bool = True) -> Taken:
    """Write one split and ingest it into a workspace beside it."""
    if write:
        files.write()
    return take(files.root.parent / "ws", kind="smpd_image", path=str(files.root), splits=splits)


def write_lines(path: Path, records: list[Any]) -> None:
    """JSON-lines; a string is written as it is."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def take_csv(tmp_path: Path, content: str | bytes, columns: dict[str, str], **options: Any) -> Taken:
    (tmp_path / "posts.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    path = str(tmp_path / "posts.csv")
    return take(tmp_path / "ws", kind="table", path=path, columns=columns, **options)


def take_rows(tmp_path: Path, rows: list[dict[str, Any]], columns: dict[str, str], **options: Any) -> Taken:
    write_lines(tmp_path / "posts.jsonl", rows)
    return take(tmp_path / "ws", kind="table", path=str(tmp_path / "posts.jsonl"), columns=columns, **options)
