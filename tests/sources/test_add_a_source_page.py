"""The example of docs/add-a-source.md, installed as it stands there."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest

from jobs.bench.packages import install
from smp_ray.config import build_config, config_class
from smp_ray.errors import ConfigError, DataError
from smp_ray.plugins import found
from smp_ray.sources.registry import GROUP, source_type
from smp_ray.sources.table import TableSource
from smp_ray.store.workspace import Workspace
from tests.sources.helpers import folder_of, section, take

PAGE = Path(__file__).parents[2] / "docs" / "add-a-source.md"
DAYS = [
    {"day": "2024-05-01", "text": "A sunset", "mood": 0.5, "picture": "pictures/1.jpg", "score": 3},
    {"day": "2024-05-02", "text": "Rain", "mood": None},
    {"day": "2024-05-02", "text": "Rain again"},
    {"day": "2024-05-03", "mood": "good"},
    {"day": "2024-05-04", "picture": "../secret.jpg"},
    {"text": "some day"},
    "a day",
]


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's package."""
    project = tomllib.loads(block("toml"))["project"]
    ((name, value),) = project["entry-points"][GROUP].items()
    site = install(tmp_path / "site", block("python"), GROUP, name, value, project["version"])
    monkeypatch.syspath_prepend(str(site))
    config_class.cache_clear()
    yield
    config_class.cache_clear()
    sys.modules.pop(value.partition(":")[0], None)


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "diary.json").write_text(json.dumps(DAYS))
    return tmp_path / "diary"


def raw_config(diary: Path) -> dict[str, Any]:
    return {"workspace": str(diary.parent / "ws"), "source": {"kind": "diary", "path": str(diary)}}


@pytest.mark.usefixtures("installed")
def test_the_example_reads_posts(tmp_path: Path, diary: Path) -> None:
    config = build_config(raw_config(diary))
    taken = take(tmp_path / "ws", **config.source.model_dump())
    assert list(taken.posts) == ["2024-05-01", "2024-05-02"]
    first, second = taken.posts.values()
    assert {key: value for key, value in first.items() if value is not None and key != "row_id"} == {
        "post_id": "2024-05-01", "split": "train", "title": "A sunset", "popularity": 3.0, "user_mood": 0.5,
        "posted_at": datetime(2024, 5, 1, tzinfo=UTC), "image_uri": f"{diary}/pictures/1.jpg",
    }  # fmt: skip
    assert (second["split"], second["title"], second["image_uri"]) == ("test", "Rain", None)
    assert len(taken.rejected) == len(DAYS) - 2
    for reason in (
        "post_id '2024-05-02' (or its row_id) was taken before", "record 4: found 'good', allowed: a number",
        "record 5: found '../secret.jpg', allowed: the name of a picture", "record 6: no day", "record 7: no day",
    ):  # fmt: skip
        assert reason in taken.reasons


@pytest.mark.usefixtures("installed")
def test_the_example_knows_its_files(tmp_path: Path, diary: Path) -> None:
    place = Workspace.open(str(tmp_path / "ws"))

    def folder() -> str:
        return folder_of(section(kind="diary", path=str(diary)).open(place))

    before = folder()
    assert folder() == before
    (diary / "diary.json").write_text(json.dumps(DAYS[:1]))
    assert folder() != before
    (diary / "diary.json").unlink()
    with pytest.raises(DataError, match=r"diary\.json: no such file"):
        folder()


def test_a_package_whose_kind_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    own = EntryPoint("mine", "smp_ray.sources.table:TableSource", GROUP)
    other = EntryPoint("theirs", f"{__name__}:Taken", GROUP)
    monkeypatch.setattr("smp_ray.sources.registry.found", lambda *given: [*found(*given), own])
    source_type()
    monkeypatch.setattr("smp_ray.sources.registry.found", lambda *given: [*found(*given), other])
    with pytest.raises(ConfigError, match=r"the source theirs \(.*:Taken\): its kind table is that of TableSource"):
        source_type()


class Taken(TableSource):
    """Another class with the kind of a table."""


def test_without_the_package_there_is_no_such_source(diary: Path) -> None:
    assert not [entry for entry in entry_points(group=GROUP) if entry.name == "diary"]
    with pytest.raises(ConfigError, match="found 'diary', allowed: "):
        build_config(raw_config(diary))
