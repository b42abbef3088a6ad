"""A stranger's text of trees is refused where LightGBM's reader would trust it."""

from __future__ import annotations

import re

import lightgbm as lgb
import numpy as np
import pytest

from smp_ray.errors import DataError
from smp_ray.training.boosting.trees import checked

COLUMNS = 5


@pytest.fixture(scope="module")
def text() -> str:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, COLUMNS))
    values[:, 4] = rng.integers(0, 40, 500)
    labels = values[:, 0] + (values[:, 4] % 3)
    params = {"verbosity": -1, "num_leaves": 15, "max_cat_to_onehot": 1, "min_data_per_group": 5}
    data = lgb.Dataset(values, labels, categorical_feature=[4])
    return str(lgb.train(params, data, 20).model_to_string())


def test_what_lightgbm_wrote_is_taken_and_predicts_the_same(text: str) -> None:
    assert "cat_threshold" in text
    values = np.random.default_rng(1).normal(size=(50, COLUMNS))
    values[:, 4] = np.arange(50)
    one, other = (lgb.Booster(model_str=model).predict(values) for model in (text, checked(text, COLUMNS)))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"num_leaves=\d+", "num_leaves=1000000000"),
        (r"split_feature=\d+", "split_feature=7"),
        (r"split_feature=\d+", "split_feature=-1"),
        (r"left_child=-?\d+", "left_child=0"),
        (r"right_child=-?\d+", "right_child=99999"),
        (r"leaf_value=\S+ ", "leaf_value="),
        (r"leaf_value=\S+", "leaf_value=nan"),
        (r"threshold=\S+ ", "threshold="),
        (r"leaf_count=\S+ ", "leaf_count="),
        (r"internal_value=\S+ ", "internal_value="),
        (r"cat_boundaries=0 \d+", "cat_boundaries=0 999999"),
        (r"num_cat=[1-9]\d*", "num_cat=0"),
        (r"max_feature_idx=4", "max_feature_idx=400"),
        (r"num_class=1", "num_class=5"),
        (r"^tree\n", "forest\n"),
        (r"end of trees[\s\S]*", ""),
        (r"decision_type=\d+ ", "decision_type=x "),
    ],
)
def test_what_is_not_so_is_refused(text: str, pattern: str, replacement: str) -> None:
    broken = re.sub(pattern, replacement, text, count=1)
    assert broken != text
    with pytest.raises(DataError):
        checked(broken, COLUMNS)


def test_a_billion_trees_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="trees"):
        checked(
            text.replace("end of trees", "\n".join(f"Tree={n}" for n in range(100_001)) + "\nend of trees"), COLUMNS
        )
