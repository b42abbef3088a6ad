"""What was planted into the sample world comes out of the pass, by a wide margin."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from smp_ray.config import build_config
from smp_ray.ray_session import RaySession
from tests.features.conftest import exported, run_features

POSTS = 500


@pytest.fixture(scope="module")
def sample(session: RaySession, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The sample's features with the kind of title from the truth that no stage reads."""
    folder = tmp_path_factory.mktemp("sample")
    config = build_config({"workspace": str(folder / "run"), "source": {"kind": "demo", "posts": POSTS, "seed": 7}})
    frame = exported(run_features(config, session), folder)
    (truth_file,) = Path(folder / "run" / "world").glob("*/truth.jsonl")
    truth = pd.read_json(truth_file, lines=True, dtype={"Pid": str}).rename(columns={"Pid": "post_id"})
    return frame.merge(truth[["post_id", "title_kind"]], on="post_id", validate="one_to_one")


def auc(frame: pd.DataFrame, column: str, higher: list[str], lower: list[str]) -> float:
    known = frame[frame[column].notna() & frame["title_kind"].isin(higher + lower)]
    return float(roc_auc_score(known["title_kind"].isin(higher), known[column]))


def test_every_post_is_there_with_the_missing_images_of_smpd(sample: pd.DataFrame) -> None:
    assert len(sample) == POSTS
    counts = sample["clip_status"].value_counts()
    assert set(counts.index) == {"ok", "no_image"}
    assert 0.05 < counts["no_image"] / POSTS < 0.2
    assert sample.loc[sample["clip_status"] == "no_image", "clip_image"].isna().all()
    # A picture that is not there has a title all the same.
    assert sample["clip_title"].notna().all()


@pytest.mark.parametrize("column", ["similarity_title_caption", "similarity_image_title"])
def test_similarity_is_higher_for_describing_titles_than_for_off_topic_ones(sample: pd.DataFrame, column: str) -> None:
    assert auc(sample, column, ["describing"], ["off_topic"]) > 0.97
    median = sample.groupby("title_kind")[column].median()
    assert median["describing"] > median["off_topic"] + 0.3


def test_perplexity_is_higher_for_low_quality_titles(sample: pd.DataFrame) -> None:
    assert auc(sample, "title_perplexity", ["low_quality"], ["describing"]) > 0.95
    assert auc(sample, "title_perplexity", ["low_quality"], ["careful"]) > 0.99
    median = sample.groupby("title_kind")["title_perplexity"].median()
    assert median["low_quality"] > 10 * median["describing"]
