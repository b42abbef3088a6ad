"""Cleaning rules, held against a plain loop over the posts that uses unicodedata instead of regular expressions."""

from __future__ import annotations

import unicodedata

import numpy as np
import pandas as pd
import pytest

from smp_ray.analysis.intervals import popularity_intervals
from smp_ray.analysis.quality_rules import cleaning_by_interval, cleaning_rules, reasons
from smp_ray.config import CleaningConfig

RULES = ["empty_title", "short_title", "camera_file_name", "no_letters", "mostly_symbols", "duplicate_title"]
SETTINGS = CleaningConfig()


def posts(titles: list[str | None], users: list[str | None] | None = None, **columns: object) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "title": pd.Series(titles, dtype=object),
            "user_id": pd.Series(users or [f"u{at}" for at in range(len(titles))], dtype=object),
            "posted_at": pd.date_range("2020-01-01", periods=len(titles), tz="UTC"),
            **columns,
        }
    )


def hit(title: str | None) -> list[str]:
    found = reasons(posts([title]), SETTINGS).iloc[0]
    return [str(rule) for rule in found.index[found]]


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        (None, ["empty_title"]),
        (" \u3000\n", ["empty_title"]),
        (" ab ", ["short_title"]),
        ("abc", []),
        ("IMG_2034", ["camera_file_name"]),
        ("  dsc 0012 (edited) ", ["camera_file_name"]),
        ("P1020304", ["camera_file_name"]),
        ("Sunset.JPG", ["camera_file_name"]),
        ("2013-05-02", ["camera_file_name", "no_letters"]),
        ("Image of a cat", []),
        ("7 + 7 = 14", ["no_letters"]),
        ("😀😀😀", ["no_letters", "mostly_symbols"]),
        ("❤️ love", []),
        ("👨‍👩‍👧‍👦👨‍👩‍👧‍👦👨‍👩‍👧‍👦 abc", ["mostly_symbols"]),
        ("!!a!!", ["mostly_symbols"]),
        ("a!", ["short_title"]),
        ("ab!!", []),
        ("a - b - c", []),
        ("हिन्दी में लिखा", []),
        ("صورة جميلة", []),
        ("\u202bשלום\u202c", []),
        ("\u200f\u200f\u200f", ["no_letters"]),
        ("東京タワー", []),
        ("<b>bold</b> & <script>alert(1)</script>", []),
        ("<><>", ["no_letters", "mostly_symbols"]),
    ],
)
def test_what_a_title_says(title: str | None, expected: list[str]) -> None:
    assert hit(title) == expected


def slowly(frame: pd.DataFrame, settings: CleaningConfig) -> pd.DataFrame:
    """The same rules, post by post."""
    rows: list[dict[str, bool]] = [{}] * len(frame)
    given: set[tuple[str, str]] = set()
    for at in sorted(range(len(frame)), key=lambda row: (frame["posted_at"].iloc[row], row)):
        title = (frame["title"].iloc[at] or "").strip()
        kinds = [unicodedata.category(letter)[0] for letter in title]
        seen = [
            kind
            for kind, letter in zip(kinds, title, strict=True)
            if kind not in "ZM" and unicodedata.category(letter) not in ("Cc", "Cf")
        ]
        key = (frame["user_id"].iloc[at], title.casefold())
        known = bool(title) and key[0] is not None
        rows[at] = {
            "empty_title": not title,
            "short_title": 0 < len(title) < settings.min_characters,
            "camera_file_name": bool(title) and title.upper().startswith("IMG_"),
            "no_letters": bool(title) and "L" not in kinds,
            "mostly_symbols": sum(kind not in "LN" for kind in seen) > settings.max_symbol_share * len(seen),
            "duplicate_title": known and key in given,
        }
        if known:
            given.add(key)
    return pd.DataFrame(rows, index=frame.index)


def world(count: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    words = ["", " ", "a", "Straße", "STRASSE", "IMG_12", "😀", "...", "été", "12", "\u200d", "مرحبا", "<i>"]
    titles = [" ".join(rng.choice(words, rng.integers(0, 3))) for _ in range(count)]
    frame = posts(titles, [None if user == 0 else f"u{user}" for user in rng.integers(0, 40, count)])
    frame["posted_at"] = pd.Timestamp("2020-01-01", tz="UTC") + pd.to_timedelta(rng.integers(0, 30, count), unit="D")
    frame["popularity"] = np.where(rng.random(count) < 0.1, np.nan, rng.normal(6, 3, count))
    frame["picture_status"] = rng.choice(["ok", "no_image", "bad_image", "error"], count)
    return frame.set_index(pd.Index(rng.permutation(count) + 1000))


def test_rules_agree_with_a_loop_over_the_posts() -> None:
    frame = world()
    settings = CleaningConfig(camera_names=("^IMG_",))
    found = reasons(frame, settings, ["picture_status"])
    expected = slowly(frame, settings)
    assert expected.any().all()
    pd.testing.assert_frame_equal(found[RULES], expected)
    assert (found["no_image"] == (frame["picture_status"] == "no_image")).all()
    assert (found["bad_image"] == (frame["picture_status"] == "bad_image")).all()


def test_duplicates_follow_time_then_rows_and_case() -> None:
    frame = posts(["Rain", " rain ", "RAIN", "rain", "", ""], ["a", "a", "b", None, "a", "a"])
    frame["posted_at"] = pd.to_datetime(["2020-01-03", "2020-01-02"] + ["2020-01-01"] * 4, utc=True)
    assert reasons(frame, SETTINGS)["duplicate_title"].tolist() == [True, False, False, False, False, False]
    frame["posted_at"] = pd.Timestamp("2020-01-01", tz="UTC")
    assert reasons(frame, SETTINGS)["duplicate_title"].tolist() == [False, True, False, False, False, False]
    frame.loc[0, "posted_at"] = pd.NaT
    assert reasons(frame, SETTINGS)["duplicate_title"].tolist() == [True, False, False, False, False, False]


def test_posts_without_a_user_repeat_nobody() -> None:
    frame = posts(["rain", "rain", "rain", "rain"], [None, "a", None, "a"])
    assert reasons(frame, SETTINGS)["duplicate_title"].tolist() == [False, False, False, True]


def test_rules_that_are_off_or_have_nothing_to_look_at_have_no_column() -> None:
    frame = posts(["one", "two"])
    assert list(reasons(frame, SETTINGS).columns) == RULES
    assert "duplicate_title" not in reasons(frame, CleaningConfig(duplicates=False))
    frame["other_status"] = ["bad_image", "no_text"]
    frame["picture_status"] = ["ok", "bad_image"]
    assert reasons(frame, SETTINGS, ["other_status"])["bad_image"].tolist() == [True, False]
    assert reasons(frame, SETTINGS, ["other_status", "picture_status"])["bad_image"].all()
    assert "bad_image" not in reasons(frame, CleaningConfig(bad_image=False), ["other_status"])


def test_counts_of_rules() -> None:
    frame = world()
    found = reasons(frame, SETTINGS, ["picture_status"])
    table = cleaning_rules(found).set_index("rule")
    assert list(table.index) == [*found.columns, "any rule"]
    for rule in found.columns:
        others = found.drop(columns=rule)
        alone = sum(found.loc[row, rule] and not others.loc[row].any() for row in found.index)
        assert table.loc[rule].tolist() == [found[rule].sum(), found[rule].mean(), alone]
    assert table.loc["any rule", "posts"] == found.any(axis=1).sum()
    assert table.loc["any rule", "only"] == table["only"].iloc[:-1].sum()


def test_share_removed_by_interval() -> None:
    frame = world()
    found = reasons(frame, CleaningConfig(no_image=False, bad_image=False))
    intervals = popularity_intervals(frame["popularity"], (2.0, 6.0, 50.0))
    table = cleaning_by_interval(found, intervals, (2.0, 6.0, 50.0), frame["user_id"], 200, few=60)
    binned = pd.cut(frame["popularity"], [-np.inf, 2, 6, 50, np.inf], right=False)
    expected = found.any(axis=1).groupby(binned, observed=False).agg(["size", "sum", "mean"])
    assert table["posts"].tolist() == expected["size"].tolist()
    assert table["removed"].tolist() == expected["sum"].tolist()
    np.testing.assert_allclose(table["share"], expected["mean"])
    assert table["interval"].tolist() == ["below 2", "2 to 6", "6 to 50", "50 and above"]
    assert table["few"].tolist() == [bool(size < 60) for size in expected["size"]]
    measured = table.iloc[:3]
    assert (measured["share_low"] < measured["share"]).all()
    assert (measured["share"] < measured["share_high"]).all()
    assert table.iloc[3][["share", "share_low", "share_high"]].isna().all()


def test_no_posts_and_no_labels() -> None:
    frame = world(10).iloc[:0]
    found = reasons(frame, SETTINGS)
    assert len(found) == 0
    rules = cleaning_rules(found)
    assert (rules["posts"] == 0).all()
    assert rules["share"].isna().all()
    table = cleaning_by_interval(found, popularity_intervals([], (2.0,)), (2.0,), [], 10, few=1)
    assert table["posts"].tolist() == [0, 0]
    frame = world(10)
    unlabelled = popularity_intervals(np.full(10, np.nan), (2.0,))
    table = cleaning_by_interval(reasons(frame, SETTINGS), unlabelled, (2.0,), frame["user_id"], 10, few=1)
    assert table["posts"].tolist() == table["removed"].tolist() == [0, 0]


def test_pictures_that_no_post_has_are_no_rule() -> None:
    settings = CleaningConfig()
    two = posts(["one title", "another title"], clip_status=["no_image", "no_image"])
    assert not {"no_image", "bad_image"} & set(reasons(two, settings, ["clip_status"]).columns)
    one = two.assign(clip_status=["no_image", "ok"])
    assert reasons(one, settings, ["clip_status"])["no_image"].tolist() == [True, False]
