"""Which columns the predictor uses: LightGBM's gain, and SHAP values from its own `pred_contrib`.

A SHAP value is what a column adds to the prediction of one post, in the unit of popularity; the values of a post and
the mean prediction sum to its prediction (Lundberg et al., "From local explanations to global understanding with
explainable AI for trees", 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

#: Posts whose contributions are computed at once.
_PIECE = 10_000


def contributions(boosters: Sequence[Any], values: np.ndarray) -> np.ndarray:
    """SHAP values of the mean of several models.

    Args:
        boosters: LightGBM boosters, at least one; the prediction is their mean.
        values: float32 (posts, columns), what they predict from.

    Returns:
        float32 (posts, columns), in the unit of popularity.

    Raises:
        ValueError: no boosters, or not the columns that they were trained on.
    """
    if not boosters:
        raise ValueError("boosters: found none, allowed: at least one")
    for booster in boosters:
        if booster.num_feature() != values.shape[1]:
            raise ValueError(f"values: found {values.shape[1]} columns, the model has {booster.num_feature()}")
    found = np.zeros(values.shape, dtype=np.float32)
    for begin in range(0, len(values), _PIECE):
        piece = values[begin : begin + _PIECE]
        # The last column is the mean prediction.
        every = [np.asarray(booster.predict(piece, pred_contrib=True))[:, :-1] for booster in boosters]
        found[begin : begin + _PIECE] = np.mean(every, axis=0)
    return found


def importances(
    boosters: Sequence[Any], shap: np.ndarray, columns: Sequence[str], groups: Sequence[str]
) -> pd.DataFrame:
    """Every column of the matrix, the strongest by SHAP first.

    Args:
        boosters: LightGBM boosters.
        shap: their `contributions`, (posts, columns).
        columns: names.
        groups: the group of each column.

    Returns:
        column, family (its group), gain (LightGBM's total gain of the column's splits, mean over the boosters),
        gain_share, shap (mean |contribution| over the posts), shap_share. Shares sum to 1; NaN where there is nothing
        to share.
    """
    gain = np.mean([booster.feature_importance("gain") for booster in boosters], axis=0)
    frame = pd.DataFrame({"column": list(columns), "family": list(groups), "gain": gain})
    frame["gain_share"] = _shares(gain)
    frame["shap"] = _mean_size(shap)
    frame["shap_share"] = _shares(frame["shap"].to_numpy())
    return frame.sort_values(["shap", "gain", "column"], ascending=[False, False, True], ignore_index=True)


def importances_by_group(
    boosters: Sequence[Any], shap: np.ndarray, columns: Sequence[str], groups: Sequence[str]
) -> pd.DataFrame:
    """Every group of columns, the strongest by SHAP first.

    Args:
        boosters: LightGBM boosters.
        shap: their `contributions`, (posts, columns).
        columns: names.
        groups: the group of each column.

    Returns:
        family (the group), columns (how many), gain_share, shap (mean over the posts of |the sum of the group's
        contributions|, which is less than the sum of its columns' where these cancel out), shap_share. Shares sum to 1.
    """
    single = importances(boosters, shap, columns, groups)
    names = list(dict.fromkeys(groups))
    of_group = {name: np.array([group == name for group in groups]) for name in names}
    sizes = np.array([_mean_size(shap[:, of_group[name]].sum(axis=1, keepdims=True))[0] for name in names])
    frame = pd.DataFrame(
        {
            "family": names,
            "columns": [int(of_group[name].sum()) for name in names],
            "gain_share": single.groupby("family")["gain_share"].sum(min_count=1).reindex(names).to_numpy(),
            "shap": sizes,
            "shap_share": _shares(sizes),
        }
    )
    return frame.sort_values(["shap", "gain_share", "family"], ascending=[False, False, True], ignore_index=True)


def _mean_size(shap: np.ndarray) -> np.ndarray:
    if not len(shap):
        return np.full(shap.shape[1], np.nan)
    return np.abs(shap).mean(axis=0, dtype=np.float64)


def _shares(values: np.ndarray) -> np.ndarray:
    total = values.sum()
    return np.asarray(values / total if total > 0 else np.full(len(values), np.nan))
