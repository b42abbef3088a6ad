"""A submission file against the list of posts that it should cover."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smp_ray.cli import app
from smp_ray.errors import DataError
from smp_ray.predictor.challenge import check_submission

LISTED = "test/17@N00/12.jpg\ntest/17@N00/13.jpg\n\n14\n"


def checked(folder: Path, scores: list[tuple[object, object]] | str) -> int:
    (folder / "test_img_filepath.txt").write_text(LISTED)
    result = [{"post_id": post, "popularity_score": score} for post, score in scores] if isinstance(scores, list) else 0
    text = json.dumps({"version": "VERSION 1.2", "result": result}) if isinstance(scores, list) else scores
    (folder / "submission.json").write_text(text)
    return check_submission(str(folder / "submission.json"), str(folder / "test_img_filepath.txt"))


def test_what_covers_all_posts_is_right_in_any_order(tmp_path: Path) -> None:
    assert checked(tmp_path, [("14", 3), ("12", 1.5), (13, 2.0)]) == 3
    files = [str(tmp_path / name) for name in ("submission.json", "test_img_filepath.txt")]
    done = CliRunner().invoke(app, ["check", files[0], "--covers", files[1]])
    assert (done.exit_code, "covers all 3 posts" in done.output) == (0, True)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([("12", 1.0), ("13", 1.0)], r"of 3 posts in .*, 1 \(14\) listed posts have no score$"),
        ([("12", 1.0), ("13", 1.0), ("14", 1.0), ("15", 1.0)], r"1 \(15\) scores are of posts that are not listed$"),
        ([("12", 1.0), ("12", 1.0), ("13", 1.0), ("14", 1.0)], r"1 \(12\) posts have several scores$"),
        ([("12", 1.0), ("13", float("nan")), ("14", "2")], r"2 \(13, 14\) scores are no finite numbers$"),
        ([(str(n), 1.0) for n in range(10, 20)], r"7 \(10, 11, 15, …\) scores are of posts"),
        ("{", "no submission file of the challenge"),
        ('{"result": [1]}', "no submission file of the challenge"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, scores: list[tuple[object, object]] | str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        checked(tmp_path, scores)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt: cannot be read"):
        check_submission(str(tmp_path / "a.json"), str(tmp_path / "nowhere.txt"))
