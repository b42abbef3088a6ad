"""The SMPD-Image source; it also tests `sources/joined.py`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smp_ray.errors import DataError
from tests.sources.helpers import SmpdFiles, columnar, take, take_smpd


@pytest.fixture
def files(tmp_path: Path) -> SmpdFiles:
    return SmpdFiles.of(tmp_path / "smpd")


def test_every_column_of_a_post(files: SmpdFiles) -> None:
    taken = take_smpd(files)
    assert list(taken.posts) == ["1", "2", "3"]
    assert taken.rejected == []
    post = taken.posts["1"]
    row_id = post.pop("row_id")
    assert 0 <= row_id < 2**63
    assert post.pop("user_description") == pytest.approx([0.5, -1e-3, 2])
    assert post == {
        "post_id": "1", "user_id": "1@N0", "split": "train", "title": "title 1", "tags": ["a", "b"],
        "text_language": None, "media_type": "photo", "image_uri": f"{files.root}/train/1@N0/1.jpg",
        "posted_at": datetime(2015, 3, 4, 8, tzinfo=UTC), "latitude": 48.5, "longitude": -2.25, "geo_accuracy": 16.0,
        "category": "Animal", "subcategory": "cat", "concept": "kitten", "popularity": 1.5, "image_bytes": None,
        "user_photo_firstdate": 1255126064.0, "user_photo_count": 12.0, "user_ispro": 1.0, "user_canbuypro": 0.0,
        "user_timezone_offset": -3.5, "user_photo_firstdatetaken": 1189123200.0, "user_timezone_id": 12.0,
        "is_public": 1.0, "user_timezone_name": None, "user_path_alias": "ann", "media_status": "ready",
        "user_location_description": None,
    }  # fmt: skip


def test_json_is_joined_by_ids_and_labels_by_line(files: SmpdFiles) -> None:
    for part in files.parts:
        files.parts[part].reverse()
    files.paths[0], files.paths[2] = files.paths[2], files.paths[0]
    taken = take_smpd(files)
    assert [(key, post["title"], post["popularity"]) for key, post in taken.posts.items()] == [
        ("3", "title 3", 1.5), ("2", "title 2", 2.5), ("1", "title 1", 3.5),
    ]  # fmt: skip


def test_objects_of_columns_read_as_lists_of_records(files: SmpdFiles, tmp_path: Path) -> None:
    expected = take_smpd(files).posts
    other = SmpdFiles.of(tmp_path / "columns" / "smpd", posts=12)
    listed = take_smpd(other).posts
    other.parts = {part: columnar(records) for part, records in other.parts.items()}
    assert take_smpd(other).posts == listed
    assert {key: listed[key]["row_id"] for key in expected} == {key: expected[key]["row_id"] for key in expected}


@pytest.mark.parametrize("header", ["label", "Popularity", "some words"])
def test_label_file_with_a_header(files: SmpdFiles, header: str) -> None:
    files.labels.insert(0, header)
    assert [post["popularity"] for post in take_smpd(files).posts.values()] == [1.5, 2.5, 3.5]


def test_first_label_that_is_no_number_is_no_header_where_the_lines_agree(files: SmpdFiles) -> None:
    files.labels[0] = "n/a"
    taken = take_smpd(files)
    assert [post["popularity"] for post in taken.posts.values()] == [2.5, 3.5]
    assert "label of line 1: found 'n/a', allowed: a number" in taken.reasons


@pytest.mark.parametrize("label", ["nan", "inf", "-inf", "abc", "", "1,5"])
def test_label_that_is_not_finite_is_quarantined(files: SmpdFiles, label: str) -> None:
    files.labels[1] = label
    taken = take_smpd(files)
    assert list(taken.posts) == ["1", "3"]
    assert taken.posts["3"]["popularity"] == 3.5
    assert taken.made.counts["rejected_label"] == 1
    assert json.loads(taken.rejected[0]["record"]) == {"path": "train/0@N0/2.jpg", "label": label}
    assert taken.rejected[0]["source_file"] == "train_allmetadata_json/train_label.txt"


def test_more_labels_than_images(files: SmpdFiles) -> None:
    files.labels += ["7.25", "8.25"]
    taken = take_smpd(files)
    assert len(taken.posts) == 3
    assert [(entry["record"], entry["reason"]) for entry in taken.rejected] == [
        ("7.25", "label 4 has no image path"), ("8.25", "label 5 has no image path"),
    ]  # fmt: skip


def test_fewer_labels_than_images(files: SmpdFiles) -> None:
    files.labels.pop()
    taken = take_smpd(files)
    assert list(taken.posts) == ["1", "2"]
    assert taken.reasons == "label of line 3: there is none"


def test_byte_order_marks_and_windows_line_ends(files: SmpdFiles) -> None:
    expected = take_smpd(files).posts
    for path in files.folder.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert take_smpd(files, write=False).posts == expected


def test_both_spellings_of_the_image_list_and_both_places(files: SmpdFiles) -> None:
    expected = take_smpd(files).posts
    (files.folder / "train_img_filepath.txt").rename(files.folder / "train_img_path.txt")
    assert take_smpd(files, write=False).posts == expected
    (files.folder / "train_img_path.txt").rename(files.root / "train_img_path.txt")
    (files.folder / "train_label.txt").rename(files.root / "train_label.txt")
    assert take_smpd(files, write=False).posts == expected


@pytest.mark.parametrize(
    ("listed", "there", "expected"),
    [
        ("train", "train", "train"), ("train", "SMP_train_images", "SMP_train_images"), ("train", "", "train"),
        ("SMP_train_images", "train", "train"), ("SMP_train_images", "SMP_train_images", "SMP_train_images"),
    ],
)  # fmt: skip
def test_both_image_layouts(files: SmpdFiles, listed: str, there: str, expected: str) -> None:
    files.paths = [path.replace("train", listed, 1) for path in files.paths]
    (files.root / there).mkdir(parents=True)
    assert take_smpd(files).posts["2"]["image_uri"] == f"{files.root}/{expected}/0@N0/2.jpg"


@pytest.mark.parametrize("path", ["../0@N0/2.jpg", "train/../../0@N0/2.jpg", "/etc/0@N0/2.jpg", "http://h/0@N0/2.jpg"])
def test_image_paths_that_leave_the_folder_are_refused(files: SmpdFiles, path: str) -> None:
    files.paths[1] = path
    taken = take_smpd(files)
    assert list(taken.posts) == ["1", "3"]
    assert taken.made.counts["rejected_image_path"] == 1
    refused = next(entry for entry in taken.rejected if entry["record"] == path)
    assert refused["reason"] == "line 2: the image path leaves the dataset's folder"


def test_line_without_ids_and_empty_line_keep_the_labels_in_place(files: SmpdFiles) -> None:
    files.paths[0], files.paths[1] = "2.jpg", ""
    taken = take_smpd(files)
    assert {key: post["popularity"] for key, post in taken.posts.items()} == {"3": 3.5}
    assert "line 1: not an image path that ends in <Uid>/<Pid>.jpg" in taken.reasons
    assert "line 2: the image path is empty" in taken.reasons


def test_duplicate_post_is_quarantined_and_the_first_kept(files: SmpdFiles) -> None:
    files.paths.append(files.paths[0])
    files.labels.append("9.5")
    taken = take_smpd(files)
    assert taken.posts["1"]["popularity"] == 1.5
    assert taken.reasons == "post_id '1' (or its row_id) was taken before; the first is kept"
    assert json.loads(taken.rejected[0]["record"])["popularity"] == 9.5


def test_json_records_that_are_repeated_differ_or_have_no_ids(files: SmpdFiles) -> None:
    first = files.parts["text"][0]
    files.parts["text"] += [dict(first), {**first, "Title": "another"}, {"Title": "no ids"}, 7, {**first, "Pid": True}]
    taken = take_smpd(files)
    assert taken.posts["1"]["title"] == "title 1"
    counts = taken.made.counts
    assert (counts["repeated_records_text"], counts["rejected_conflicting_record"]) == (1, 1)
    assert counts["rejected_without_ids"] == 3
    assert {"7", '{"Title": "no ids"}'} <= {entry["record"] for entry in taken.rejected}


def test_posts_that_only_one_of_list_and_json_has(files: SmpdFiles) -> None:
    files.paths[0] = "train/9@N9/99.jpg"
    taken = take_smpd(files)
    known = {name for name, value in taken.posts["99"].items() if value is not None}
    assert known == {"row_id", "post_id", "user_id", "split", "image_uri", "popularity"}
    assert taken.posts["99"]["popularity"] == 1.5
    for part in files.parts:
        assert taken.made.counts[f"without_{part}"] == 1
    assert taken.made.counts["rejected_not_in_image_list"] == 1
    assert "post 1@N0/1 is not in train_allmetadata_json/train_img_filepath.txt" in taken.reasons


def test_list_and_json_that_have_nothing_in_common(files: SmpdFiles) -> None:
    files.paths = [path.replace("@N0", "@N1") for path in files.paths]
    with pytest.raises(DataError, match="has the text of no post of"):
        take_smpd(files)


def test_test_split_has_no_labels(files: SmpdFiles) -> None:
    files.write()
    other = SmpdFiles.of(files.root, posts=2, split="test", first=11).write()
    (other.folder / "test_label.txt").write_text("1\n2\n")
    taken = take_smpd(files, ("train", "test"))
    assert {key: (post["split"], post["popularity"]) for key, post in taken.posts.items() if int(key) > 2} == {
        "3": ("train", 3.5), "11": ("test", None), "12": ("test", None),
    }  # fmt: skip
    counts = taken.made.counts
    assert (counts["split_train"], counts["split_test"], counts["labelled"]) == (3, 2, 3)


def test_split_that_is_not_there(files: SmpdFiles) -> None:
    with pytest.raises(DataError, match=r"no test split; name the splits there are with source\.splits"):
        take_smpd(files, ("train", "test"))


@pytest.mark.parametrize("name", ["train_text.json", "train_img_filepath.txt", "train_label.txt"])
def test_file_that_is_indispensable(files: SmpdFiles, name: str) -> None:
    files.write()
    (files.folder / name).unlink()
    with pytest.raises(DataError, match=name):
        take_smpd(files, write=False)


@pytest.mark.parametrize("part", ["category", "temporalspatial_information", "user_data", "additional_information"])
def test_file_that_may_be_missing_is_counted(files: SmpdFiles, part: str) -> None:
    files.write()
    (files.folder / f"train_{part}.json").unlink()
    taken = take_smpd(files, write=False)
    assert len(taken.posts) == 3
    assert taken.made.counts[f"missing_file_train_{part}.json"] == 1
    assert f"without_{part}" not in taken.made.counts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"), (b"  \n", "an empty file"), (b"7", "found '7', allowed: a list of records"),
        (b'{"Uid": "1"}', "column 'Uid' is no object of rows"), (b'[{"Uid": "1", ', "record 1: not readable as JSON"),
        (b"\x1f\x8b\x08" + bytes(range(256)), "allowed: a list"), (b"null", "allowed: a list"),
    ],
)  # fmt: skip
def test_rubbish_for_json_is_one_clear_line(files: SmpdFiles, content: bytes, message: str) -> None:
    files.write()
    (files.folder / "train_user_data.json").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        take_smpd(files, write=False)
    assert str(error.value).startswith(str(files.folder / "train_user_data.json"))
    assert "\n" not in str(error.value)


def test_no_such_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        take(tmp_path / "ws", kind="smpd_image", path=str(tmp_path / "nothing"))


def test_empty_list_of_images_is_no_post(files: SmpdFiles) -> None:
    files.paths, files.labels = [], []
    with pytest.raises(
        DataError,
        match=r"no post could be taken, 3 were rejected, the first because: post 1@N0/1 is not in .*rejected\.parquet",
    ):
        take_smpd(files)
