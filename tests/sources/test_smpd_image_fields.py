from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.sources.helpers import SmpdFiles, take_smpd


def change(files: SmpdFiles, part: str, number: int, **values: Any) -> None:
    files.parts[part][number].update(values)


@pytest.fixture
def files(tmp_path: Path) -> SmpdFiles:
    return SmpdFiles.of(tmp_path / "smpd")


def test_tile_for_title(files: SmpdFiles) -> None:
    for record in files.parts["text"]:
        record["Tile"] = record.pop("Title")
    assert take_smpd(files).posts["2"]["title"] == "title 2"


def test_pid_is_a_number_in_one_file_and_a_text_in_another(files: SmpdFiles) -> None:
    for record in files.parts["text"]:
        record["Pid"] = int(record["Pid"])
    for record in files.parts["category"]:
        record["Pid"] = float(record["Pid"])
    taken = take_smpd(files)
    assert (taken.posts["2"]["title"], taken.posts["2"]["category"]) == ("title 2", "Animal")


def test_numbers_are_numbers_or_texts(files: SmpdFiles) -> None:
    change(files, "temporalspatial_information", 0, Postdate=1425456000, Latitude=48.5, Longitude=-2.25, Geoaccuracy=16)
    change(files, "user_data", 0, photo_count=12, ispro=True, timezone_offset=-3.5, timezone_id=12)
    taken = take_smpd(files)
    one, two = taken.posts["1"], taken.posts["3"]
    same = set(one) - {"row_id", "post_id", "title", "image_uri", "popularity"}
    assert {key: one[key] for key in same} == {key: two[key] for key in same}


@pytest.mark.parametrize("zero", [0, "0", 0.0, "0.0"])
def test_no_place_is_null(files: SmpdFiles, zero: Any) -> None:
    change(files, "temporalspatial_information", 0, Latitude=zero, Longitude=zero, Geoaccuracy=zero)
    change(files, "temporalspatial_information", 1, Latitude=0, Longitude=0, Geoaccuracy=16)
    change(files, "temporalspatial_information", 2, Latitude="91")
    taken = take_smpd(files)
    places = [tuple(post[name] for name in ("latitude", "longitude", "geo_accuracy")) for post in taken.posts.values()]
    assert places == [(None, None, None), (0.0, 0.0, 16.0), (None, None, None)]
    assert taken.made.counts["unreadable_latitude"] == 1


def test_time_zone_by_name(files: SmpdFiles) -> None:
    change(files, "user_data", 0, timezone_id="Europe/London")
    post = take_smpd(files).posts["1"]
    assert (post["user_timezone_id"], post["user_timezone_name"]) == (None, "Europe/London")


def test_unreadable_metadata_is_null_and_counted(files: SmpdFiles) -> None:
    change(files, "user_data", 0, photo_count="many", user_description="1,x")
    change(files, "temporalspatial_information", 0, Postdate="soon")
    change(files, "text", 0, Title=["a", "list"])
    taken = take_smpd(files)
    post = taken.posts["1"]
    assert (post["user_photo_count"], post["user_description"], post["posted_at"], post["title"]) == (None,) * 4
    counted = {name for name in taken.made.counts if name.startswith("unreadable_")}
    assert counted == {f"unreadable_{name}" for name in ("user_photo_count", "user_description", "posted_at", "title")}


def test_invalid_text_is_replaced(files: SmpdFiles) -> None:
    change(files, "text", 0, Title="a\ud83db\0c")
    files.write()
    path = files.folder / "train_text.json"
    path.write_bytes(path.read_bytes().replace(b"title 2", b"caf\xe9"))
    taken = take_smpd(files, write=False)
    assert [taken.posts[key]["title"] for key in "12"] == ["a?b\0c", "caf\ufffd"]
