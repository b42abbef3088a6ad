"""Importances, held against what is known of a single split, and against LightGBM's own sums."""

from __future__ import annotations

import lightgbm as lgb
import numpy as np
import pytest

from smp_ray.analysis.contributions import importances, importances_by_group
from smp_ray.training.boosting.base import Model
from smp_ray.training.boosting.lightgbm import LightGBM

COLUMNS, GROUPS = ["a", "b", "c", "d"], ["metadata", "clip", "clip", "text"]


def train(values: np.ndarray, labels: np.ndarray, rounds: int = 20, **params: object) -> lgb.Booster:
    settings = {"verbosity": -1, "num_threads": 1, "deterministic": True, "min_data_in_leaf": 5, **params}
    return lgb.train(settings, lgb.Dataset(values, labels), rounds)


def model_of(booster: lgb.Booster) -> Model:
    return LightGBM().load(booster.model_to_string())


def contributions(boosters: list[lgb.Booster], values: np.ndarray) -> np.ndarray:
    return np.mean([model_of(booster).contributions(values) for booster in boosters], axis=0)


def gain_of(boosters: list[lgb.Booster]) -> np.ndarray:
    return np.mean([model_of(booster).gain() for booster in boosters], axis=0)


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def boosters(values: np.ndarray) -> list[lgb.Booster]:
    labels = 3 * values[:, 0] + values[:, 1] - values[:, 2]
    return [train(values, labels), train(values, labels + values[:, 1], 10)]


def test_contributions_add_up_to_the_mean_prediction(values: np.ndarray, boosters: list[lgb.Booster]) -> None:
    shap = contributions(boosters, values)
    assert shap.shape == values.shape
    predicted = np.mean([booster.predict(values) for booster in boosters], axis=0)
    rest = predicted - shap.sum(axis=1)
    np.testing.assert_allclose(rest, rest[0], atol=1e-5)


def test_a_single_split_is_known(values: np.ndarray) -> None:
    labels = np.where(values[:, 0] > 0, 5.0, 1.0)
    params = {"num_leaves": 2, "learning_rate": 1.0, "boost_from_average": False}
    booster = train(values, labels, 1, **params)
    shap = contributions([booster], values)
    predicted = booster.predict(values)
    np.testing.assert_allclose(shap[:, 0], predicted - predicted.mean(), atol=1e-4)
    table = importances(gain_of([booster]), shap, COLUMNS, GROUPS).set_index("column")
    assert table.loc["a", ["gain_share", "shap_share"]].tolist() == [1.0, 1.0]
    assert table.loc[["b", "c", "d"], ["gain", "shap"]].to_numpy().tolist() == [[0.0, 0.0]] * 3


def test_importances_agree_with_lightgbm(values: np.ndarray, boosters: list[lgb.Booster]) -> None:
    shap = contributions(boosters, values)
    found = importances(gain_of(boosters), shap, COLUMNS, GROUPS)
    assert found["shap"].is_monotonic_decreasing
    assert found["column"].iloc[0] == "a"
    table = found.set_index("column").loc[COLUMNS]
    one, two = (booster.predict(values, pred_contrib=True)[:, :4] for booster in boosters)
    expected = np.abs((one + two) / 2).mean(axis=0)
    np.testing.assert_allclose(table["shap"], expected, rtol=1e-5)
    np.testing.assert_allclose(table["shap_share"], expected / expected.sum(), rtol=1e-5)
    gains = np.array([booster.feature_importance("gain") for booster in boosters])
    np.testing.assert_allclose(table["gain"], gains.mean(axis=0))
    np.testing.assert_allclose(table["gain_share"], gains.sum(axis=0) / gains.sum())
    assert table["family"].tolist() == GROUPS


def test_a_group_is_the_size_of_its_sum(values: np.ndarray, boosters: list[lgb.Booster]) -> None:
    shap = contributions(boosters, values)
    found = importances_by_group(importances(gain_of(boosters), shap, COLUMNS, GROUPS), shap, GROUPS).set_index(
        "family"
    )
    sums = {"metadata": shap[:, 0], "clip": shap[:, 1] + shap[:, 2], "text": shap[:, 3]}
    total = sum(np.abs(one).mean() for one in sums.values())
    for group, one in sums.items():
        assert found.loc[group, "shap"] == pytest.approx(np.abs(one).mean(), rel=1e-5)
        assert found.loc[group, "shap_share"] == pytest.approx(np.abs(one).mean() / total, rel=1e-5)
    assert found["columns"].to_dict() == {"metadata": 1, "clip": 2, "text": 1}
    assert found["gain_share"].sum() == pytest.approx(1)
    cancelling = np.array([[0.0, 2.0, -2.0, 0.0], [0.0, -1.0, 1.0, 0.0]])
    single = importances(gain_of(boosters), cancelling, COLUMNS, GROUPS)
    assert importances_by_group(single, cancelling, GROUPS)["shap"].tolist() == [0.0] * 3


def test_a_constant_model_and_no_posts(values: np.ndarray) -> None:
    constant = train(values, np.ones(len(values)), 1)
    shap = contributions([constant], values[:0])
    table = importances(gain_of([constant]), shap, COLUMNS, GROUPS)
    assert table[["gain_share", "shap", "shap_share"]].isna().all(axis=None)
    groups = importances_by_group(table, shap, GROUPS)
    assert groups[["gain_share", "shap_share"]].isna().all(axis=None)


def test_wrong_columns_are_an_error(values: np.ndarray, boosters: list[lgb.Booster]) -> None:
    with pytest.raises(lgb.basic.LightGBMError, match="number of features"):
        contributions(boosters, values[:, :3])
