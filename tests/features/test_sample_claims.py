"""What was planted into the sample world comes out of the pass, by a wide margin."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

POSTS = 500


@pytest.fixture(scope="module")
def posts(sample: Path) -> pd.DataFrame:
    """The sample's features with the kind of title from the truth that no stage reads."""
    (truth_file,) = (sample / "run" / "world").glob("*/truth.jsonl")
    truth = pd.read_json(truth_file, lines=True, dtype={"Pid": str}).rename(columns={"Pid": "post_id"})
    frame = pd.read_parquet(sample / "features.parquet")
    return frame.merge(truth[["post_id", "title_kind"]], on="post_id", validate="one_to_one")


def auc(frame: pd.DataFrame, column: str, higher: list[str], lower: list[str]) -> float:
    known = frame[frame[column].notna() & frame["title_kind"].isin(higher + lower)]
    return float(roc_auc_score(known["title_kind"].isin(higher), known[column]))


def test_every_post_is_there_with_the_missing_images_of_smpd(posts: pd.DataFrame) -> None:
    assert len(posts) == POSTS
    counts = posts["clip_status"].value_counts()
    assert set(counts.index) == {"ok", "no_image"}
    assert 0.05 < counts["no_image"] / POSTS < 0.2
    assert posts.loc[posts["clip_status"] == "no_image", "clip_image"].isna().all()
    # A picture that is not there has a title all the same.
    assert posts["clip_title"].notna().all()


@pytest.mark.parametrize("column", ["similarity_title_caption", "similarity_image_title"])
def test_similarity_is_higher_for_describing_titles_than_for_off_topic_ones(posts: pd.DataFrame, column: str) -> None:
    assert auc(posts, column, ["describing"], ["off_topic"]) > 0.97
    median = posts.groupby("title_kind")[column].median()
    assert median["describing"] > median["off_topic"] + 0.3


def test_perplexity_is_higher_for_low_quality_titles(posts: pd.DataFrame) -> None:
    assert auc(posts, "title_perplexity", ["low_quality"], ["describing"]) > 0.95
    assert auc(posts, "title_perplexity", ["low_quality"], ["careful"]) > 0.99
    median = posts.groupby("title_kind")["title_perplexity"].median()
    assert median["low_quality"] > 10 * median["describing"]
