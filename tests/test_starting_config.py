"""The starting config of one's own table: right columns with reasons, valid at once, and what is lacking is said."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from smp_ray.cli import app
from smp_ray.config import load_config
from smp_ray.errors import DataError
from smp_ray.families.registry import families
from smp_ray.sources.table import TableSource
from smp_ray.starting_config import guess_columns, write_starting_config
from tests.sources.helpers import take, write_lines


def written(tmp_path: Path, table: Path) -> tuple[TableSource, str]:
    """The section of the config that was written, checked by loading the whole, and its text."""
    out, _ = write_starting_config(str(table), str(tmp_path / "out.yaml"))
    source = load_config(out).source
    assert isinstance(source, TableSource)
    return source, Path(out).read_text(encoding="utf-8")


def test_real_photographs(tmp_path: Path, flickr_photos: Path) -> None:
    source, text = written(tmp_path, flickr_photos / "posts.csv")
    assert source.columns == {"post_id": "photo_id", "image": "image", "title": "title"}
    assert source.image_root is None
    assert "not used: other_captions" in text
    assert "# popularity: not found, so nothing is learned" in text
    taken = take(tmp_path / "ws", **source.model_dump())
    assert (len(taken.posts), taken.rejected) == (300, [])


def test_json_lines_and_parquet(tmp_path: Path) -> None:
    rows = [
        {
            "Photo ID": 100 + row, "authorId": f"u{row % 3}", "caption": f"A boat {row}", "hashtags": ["sea", "sun"],
            "image_url": f"https://host/{row}.jpg", "createdAt": "2023-07-29T18:21:00Z", "lat": 48.5, "lng": -2.25,
            "score": row + 0.5, "followers_count": 7, "split": "train",
        }
        for row in range(10)
    ]  # fmt: skip
    expected = {
        "post_id": "Photo ID", "user_id": "authorId", "image": "image_url", "title": "caption", "tags": "hashtags",
        "posted_at": "createdAt", "latitude": "lat", "longitude": "lng", "split": "split", "popularity": "score",
        "user_followers_count": "followers_count",
    }  # fmt: skip
    for suffix in ("jsonl", "parquet"):
        table = tmp_path / suffix / f"posts.{suffix}"
        table.parent.mkdir()
        if suffix == "jsonl":
            write_lines(table, rows)
        else:
            pq.write_table(pa.Table.from_pylist(rows), table)
        source, _ = written(table.parent, table)
        assert source.columns == expected
        assert take(tmp_path / f"ws-{suffix}", **source.model_dump()).rejected == []


def test_nothing_recognisable_says_what_is_lacking(tmp_path: Path) -> None:
    (tmp_path / "posts.csv").write_text("a,b\n1,x\n1,x\n")
    with pytest.raises(DataError, match=r"no column can be the id of a post.* of a, b; add a column"):
        write_starting_config(str(tmp_path / "posts.csv"), str(tmp_path / "out.yaml"))
    assert not (tmp_path / "out.yaml").exists()
    for row in ("1;x", "1;3,5"):
        (tmp_path / "posts.csv").write_text(f"a;b\n{row}\n")
        with pytest.raises(DataError, match="separated by ';'"):
            write_starting_config(str(tmp_path / "posts.csv"), str(tmp_path / "out.yaml"))
    (tmp_path / "posts.tsv").write_text("post_id\ttitle\n1\ta boat\n")
    assert write_starting_config(str(tmp_path / "posts.tsv"), str(tmp_path / "tabs.yaml"))


def test_ambiguous_and_misleading_names() -> None:
    found, notes = guess_columns({
        "id": ["1", "1"], "pid": ["1", "2"], "title": ["a", "b"], "text": ["c", "d"], "date": ["July", "May"],
        "label": ["cat", "dog"], "likes": [1, 2],
    })  # fmt: skip
    assert found == {"post_id": "pid", "title": "title"}
    assert "or is it text?" in notes["title"]
    assert "is it date? found 'July'" in notes["posted_at"]
    assert "a count such as likes" in notes["popularity"]


def test_dates_that_lack_are_no_dates() -> None:
    found, _ = guess_columns({"id": ["1", "2"], "title": ["a b", "c d"], "date": ["nan", "2023-07-29"]})
    assert found["posted_at"] == "date"


def test_names_that_tell_nothing_are_guessed_by_content() -> None:
    found, _ = guess_columns({"a": ["x/1.jpg", "x/2.jpg"], "b": ["a boat at sea", "a boat on land"]})
    assert found == {"post_id": "a", "image": "a", "title": "b"}


def test_a_date_is_guessed_by_content_where_it_is_the_only_one() -> None:
    values = {"n": ["a", "b"], "when": ["2024-01-01 10:00", "2024-02-01T10:00:00Z"], "seen": ["", ""], "day": [7, 8]}
    found, notes = guess_columns(values)
    assert found["posted_at"] == "when"
    assert "by its content" in notes["posted_at"]
    own = {"n": ["a", "b"], "Author created": ["2010-01-01", "2012-01-01"]}
    assert "posted_at" not in guess_columns(own)[0], "a date of the user's, not of the post"
    found, notes = guess_columns({**values, "since": ["2010-01-01", "2012-01-01"]})
    assert "posted_at" not in found
    assert "not found" in notes["posted_at"]


def test_images_elsewhere_than_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.jpg").touch()
    (tmp_path / "posts.csv").write_text("id,image\n1,1.jpg\n")
    source, _ = written(tmp_path, tmp_path / "posts.csv")
    assert source.image_root == str(tmp_path / "pictures")


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("posts.csv").write_text("id,title\n1,a boat\n")
    first = CliRunner().invoke(app, ["init", "posts.csv"])
    assert first.exit_code == 0, first.output
    text = Path("posts.yaml").read_text()
    again = CliRunner().invoke(app, ["init", "posts.csv"])
    assert (again.exit_code, Path("posts.yaml").read_text()) == (2, text)
    assert "posts.yaml: is there already" in again.output
    assert CliRunner().invoke(app, ["init", "posts.csv", "--out", "other.yaml"]).exit_code == 0


def test_every_model_that_is_named_as_an_example_is_a_valid_section() -> None:
    named = [(family, (family.Settings.model_config.get("json_schema_extra") or {})) for family in families().values()]
    examples = [(family, extra["examples"][0]) for family, extra in named if isinstance(extra, dict) and extra]
    assert len(examples) == 3
    for family, example in examples:
        assert json.loads(family.Settings(**example).model_dump_json())["model"] == example["model"]
