from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smp_ray.sources.table import TableSource, table_like
from tests.sources.helpers import take, take_csv, take_rows

ALL = {
    "post_id": "id", "user_id": "user", "split": "part", "title": "text", "tags": "tags", "text_language": "lang",
    "media_type": "media", "image": "image", "posted_at": "time", "latitude": "lat", "longitude": "lon",
    "geo_accuracy": "acc", "category": "c", "subcategory": "s", "concept": "k", "popularity": "score",
    "user_followers": "followers",
}  # fmt: skip
ROW = {
    "id": "1", "user": "ann", "part": "", "text": 'say "hi",\nall', "tags": "a b", "lang": "en", "media": "photo",
    "image": "images/1.jpg", "time": "2023-07-29 18:21", "lat": "48.5", "lon": "-2.25", "acc": "16", "c": "Animal",
    "s": "cat", "k": "kitten", "score": "7.5", "followers": "120",
}  # fmt: skip


def csv_text(rows: list[dict[str, Any]]) -> str:
    def field(value: Any) -> str:
        return '"' + str(value).replace('"', '""') + '"'

    lines = [",".join(rows[0]), *(",".join(map(field, row.values())) for row in rows)]
    return "\n".join(lines) + "\n"


def test_every_column_from_every_format(tmp_path: Path) -> None:
    csv = take_csv(tmp_path, csv_text([ROW]), ALL)
    assert csv.rejected == []
    found = dict(csv.posts["1"])
    assert found.pop("row_id") >= 0
    assert found == {
        "post_id": "1", "user_id": "ann", "split": "train", "title": 'say "hi",\nall', "tags": ["a", "b"],
        "text_language": "en", "media_type": "photo", "image_uri": f"{tmp_path}/images/1.jpg",
        "posted_at": datetime(2023, 7, 29, 18, 21, tzinfo=UTC), "latitude": 48.5, "longitude": -2.25,
        "geo_accuracy": 16.0, "category": "Animal", "subcategory": "cat", "concept": "kitten", "popularity": 7.5,
        "image_bytes": None, "user_followers": 120.0,
    }  # fmt: skip
    assert take_rows(tmp_path, [ROW], ALL).posts == csv.posts
    typed = {
        **ROW, "id": 1, "tags": ["a", "b"], "time": datetime(2023, 7, 29, 18, 21), "lat": 48.5, "lon": -2.25,
        "acc": 16, "score": 7.5, "followers": 120,
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([typed]), tmp_path / "posts.parquet")
    parquet = take(tmp_path / "ws", kind="table", path=str(tmp_path / "posts.parquet"), columns=ALL)
    assert parquet.posts == csv.posts
    (tmp_path / "posts.csv.gz").write_bytes(gzip.compress(csv_text([ROW]).encode()))
    zipped = take(tmp_path / "ws", kind="table", path=str(tmp_path / "posts.csv.gz"), columns=ALL)
    assert zipped.posts == csv.posts
    (tmp_path / "posts.tsv").write_text("id\ttext\n1\ta, b\n")
    tabbed = take(
        tmp_path / "ws", kind="table", path=str(tmp_path / "posts.tsv"), columns={"post_id": "id", "title": "text"}
    )
    assert tabbed.posts["1"]["title"] == "a, b"


def test_na_and_null_are_titles(tmp_path: Path) -> None:
    titles = ["NA", "null", "None", "nan", "", "N/A"]
    content = "id,t\n" + "".join(f"{number},{title}\n" for number, title in enumerate(titles))
    taken = take_csv(tmp_path, content, {"post_id": "id", "title": "t"})
    assert [found["title"] for found in taken.posts.values()] == titles


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a/1.jpg", "{root}/a/1.jpg"), ("./a//1.jpg", "{root}/a/1.jpg"), ("{root}/a/1.jpg", "{root}/a/1.jpg"),
        ("file://{root}/a/1.jpg", "{root}/a/1.jpg"), ("http://h/1.jpg", "http://h/1.jpg"),
        ("https://h/../1.jpg?x=1#y", "https://h/../1.jpg?x=1#y"), ("s3://bucket/1.jpg", "s3://bucket/1.jpg"),
        ("gs://bucket/1.jpg", "gs://bucket/1.jpg"), ("", None),
        # No address at all, which whoever fetches it says.
        ("http://[h/1.jpg", "http://[h/1.jpg"), ("http://me:pass@[h/1.jpg", "http://***@[h/1.jpg"),
        # Credentials are not stored; so marked, the address is refused when it is fetched.
        ("https://me:pass@h/1.jpg?x=1", "https://***@h/1.jpg?x=1"), ("s3://b/1.jpg?secret_key=x", "s3://b/1.jpg?***"),
        (None, None), (7, "{root}/7"),
    ],
)  # fmt: skip
def test_images_that_are_taken(tmp_path: Path, value: Any, expected: str | None) -> None:
    value = value.format(root=tmp_path) if isinstance(value, str) else value
    taken = take_rows(tmp_path, [{"id": 1, "i": value}], {"post_id": "id", "image": "i"})
    assert taken.posts["1"]["image_uri"] == (expected and expected.format(root=tmp_path))
    assert taken.made.counts["without_image"] == (expected is None)


@pytest.mark.parametrize(
    "value",
    [
        "../1.jpg", "a/../../1.jpg", "/etc/passwd", "{root}/../x.jpg", "{root}x/1.jpg", "file:///etc/passwd",
        "ftp://h/1.jpg", "data:image/png;base64,AAAA", ["a"], True, "file://{root}/%2e%2e/x.jpg",
    ],
)  # fmt: skip
def test_images_that_are_refused(tmp_path: Path, value: Any) -> None:
    value = value.format(root=tmp_path) if isinstance(value, str) else value
    taken = take_rows(tmp_path, [{"id": 1, "i": value}, {"id": 2, "i": "a.jpg"}], {"post_id": "id", "image": "i"})
    assert list(taken.posts) == ["2"]
    assert taken.reasons.startswith("line 1: image: found ")


def test_a_table_to_be_scored_is_read_as_the_one_that_was_learned_from(tmp_path: Path) -> None:
    (tmp_path / "tomorrow.csv").write_text("id,i,likes,part\n1,a.jpg,pending,soon\n")
    columns = {"post_id": "id", "image": "i", "popularity": "likes", "split": "part", "title": "text"}
    learned = TableSource(kind="table", path="posts.csv", columns=columns, image_root=str(tmp_path / "images"))
    section = table_like(str(tmp_path / "tomorrow.csv"), learned, {"user_photo_count"})
    assert section["columns"] == {"post_id": "id", "image": "i"}
    post = take(tmp_path / "ws", **section).posts["1"]
    assert (post["image_uri"], post["split"]) == (f"{tmp_path}/images/a.jpg", "test")


def test_a_column_that_a_table_to_be_scored_lacks_is_taken_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "tomorrow.csv").write_text("post_id,title,i,user_age,user_name,popularity\n1,a boat,a.jpg,3,bob,4\n")
    learned = TableSource(kind="table", path="posts.csv", columns={"post_id": "id", "image": "i", "category": "title"})
    section = table_like(str(tmp_path / "tomorrow.csv"), learned, {"user_age"})
    own = {"post_id": "post_id", "user_age": "user_age"}
    assert section["columns"] == {**own, "image": "i", "category": "title"}  # a column means what it meant
    (tmp_path / "own.csv").write_text("post_id,image_uri\n1,/elsewhere/a.jpg\n")
    assert take(tmp_path / "ws", **table_like(str(tmp_path / "own.csv"), learned, ())).posts["1"]["image_uri"] == (
        "/elsewhere/a.jpg"
    )


def test_labels_of_posts_that_are_not_learned_from_do_not_count(tmp_path: Path) -> None:
    rows = [{"id": 1, "p": "test", "l": 3}, {"id": 2, "p": "train", "l": 4}, {"id": 3, "p": "train", "l": None}]
    taken = take_rows(tmp_path, rows, {"post_id": "id", "split": "p", "popularity": "l"})
    assert taken.made.counts["labelled"] == 1


def test_image_root_widens_what_is_taken(tmp_path: Path) -> None:
    rows = [{"id": 1, "i": "a.jpg"}, {"id": 2, "i": "/etc/passwd"}, {"id": 3, "i": f"{tmp_path}/b.jpg"}]
    columns = {"post_id": "id", "image": "i"}
    other = take_rows(tmp_path, rows, columns, image_root=str(tmp_path / "images"))
    assert {key: found["image_uri"] for key, found in other.posts.items()} == {"1": f"{tmp_path}/images/a.jpg"}
    everything = take_rows(tmp_path, rows, columns, image_root="/")
    assert [found["image_uri"] for found in everything.posts.values()] == ["/a.jpg", "/etc/passwd", f"{tmp_path}/b.jpg"]
    remote = take_rows(tmp_path, rows, columns, image_root="s3://bucket/some%20dir?region=us-east-1")
    assert {key: found["image_uri"] for key, found in remote.posts.items()} == {"1": "s3://bucket/some%20dir/a.jpg"}
    # The post is the same wherever its images lie.
    assert other.posts["1"]["row_id"] == everything.posts["1"]["row_id"] == remote.posts["1"]["row_id"]


def test_images_as_bytes_plain_and_as_hugging_face_pairs(tmp_path: Path) -> None:
    pairs = [{"bytes": b"one", "path": "x.jpg"}, {"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": None}, None]
    tables = {
        "plain": pa.table({"id": [1, 2, 3], "i": pa.array([b"one", b"", None])}),
        "pairs": pa.table(
            {"id": [1, 2, 3, 4], "i": pa.array(pairs, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
        ),
    }
    found = {}
    for name, table in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
        found[name] = take(
            tmp_path / "ws",
            kind="table",
            path=str(tmp_path / f"{name}.parquet"),
            columns={"post_id": "id", "image": "i"},
        ).posts
    assert [post["image_bytes"] for post in found["plain"].values()] == [b"one", None, None]
    assert [(post["image_bytes"], post["image_uri"]) for post in found["pairs"].values()] == [
        (b"one", None), (None, f"{tmp_path}/a.jpg"), (None, None), (None, None),
    ]  # fmt: skip
    assert found["plain"]["1"]["row_id"] == found["pairs"]["1"]["row_id"]


def test_splits(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "s": "Test", "y": 1}, {"id": 2, "s": "train", "y": None}, {"id": 3, "s": "", "y": 2.0},
        {"id": 4, "s": None, "y": ""}, {"id": 5, "s": "val", "y": 1},
    ]  # fmt: skip
    taken = take_rows(tmp_path, rows, {"post_id": "id", "split": "s", "popularity": "y"})
    assert {key: found["split"] for key, found in taken.posts.items()} == {
        "1": "test", "2": "train", "3": "train", "4": "test",
    }  # fmt: skip
    assert taken.reasons == "line 5: split: found 'val', allowed: train or test"


@pytest.mark.parametrize("value", ["NA", "nan", "inf", "1,5", True, [1]])
def test_label_that_is_not_finite(tmp_path: Path, value: Any) -> None:
    taken = take_rows(tmp_path, [{"id": 1, "y": value}, {"id": 2, "y": 3}], {"post_id": "id", "popularity": "y"})
    assert list(taken.posts) == ["2"]
    assert taken.made.counts["rejected_label"] == 1
    assert taken.reasons.startswith("line 1: popularity: found ")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("latitude", "91"), ("longitude", "x"), ("geo_accuracy", "inf"), ("posted_at", "soon"), ("user_age", "old"),
        ("title", ["a"]), ("tags", {"a": 1}), ("user_id", True), ("post_id", [1]), ("category", {}),
    ],
)  # fmt: skip
def test_optional_value_that_cannot_be_read_rejects_the_row(tmp_path: Path, column: str, value: Any) -> None:
    columns = {"post_id": "id", column: "id" if column == "post_id" else "v"}
    row = {"id": value} if column == "post_id" else {"id": 1, "v": value}
    taken = take_rows(tmp_path, [row, {"id": 2, "v": None}], columns)
    assert list(taken.posts) == ["2"]
    assert taken.reasons.startswith(f"line 1: {column}: found ")
    assert json.loads(taken.rejected[0]["record"]) == row


def test_tags_of_every_kind(tmp_path: Path) -> None:
    values = [["a", "b c", ""], "a  b", "a b, c,,", "", None]
    rows = [{"id": number, "t": value} for number, value in enumerate(values)]
    taken = take_rows(tmp_path, rows, {"post_id": "id", "tags": "t"})
    assert [post["tags"] for post in taken.posts.values()] == [["a", "b c"], ["a", "b"], ["a b", "c"], [], None]


def test_duplicates_of_every_spelling(tmp_path: Path) -> None:
    rows = [{"id": 775}, {"id": "775"}, {"id": " 775 "}, {"id": 775.0}, {"id": "0775"}]
    taken = take_rows(tmp_path, rows, {"post_id": "id"})
    assert list(taken.posts) == ["775", "0775"]
    assert taken.made.counts["rejected_duplicate_post_id"] == 3


def test_half_a_place_is_none(tmp_path: Path) -> None:
    columns = {"post_id": "id", "latitude": "a", "longitude": "o", "geo_accuracy": "g"}
    found = take_rows(tmp_path, [{"id": 1, "a": 3, "o": None, "g": 16}], columns).posts["1"]
    assert (found["latitude"], found["longitude"], found["geo_accuracy"]) == (None, None, None)


def test_real_photographs(flickr_photos: Path, tmp_path: Path) -> None:
    taken = take(
        tmp_path / "ws", kind="table", path=str(flickr_photos / "posts.csv"),
        columns={"post_id": "photo_id", "title": "title", "image": "image"},
    )  # fmt: skip
    assert len(taken.posts) == 300
    assert taken.rejected == []
    assert len({post["row_id"] for post in taken.posts.values()}) == 300
    assert all(Path(post["image_uri"]).is_file() for post in taken.posts.values())
    assert {post["split"] for post in taken.posts.values()} == {"test"}
    assert taken.posts["1000268201"]["title"].startswith("A child in a pink dress")
