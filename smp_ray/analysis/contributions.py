"""Which columns the predictor uses: LightGBM's gain, and SHAP values from its own `pred_contrib`.

A SHAP value is what a column adds to the prediction of one post, in the unit of popularity; the values of a post and
the mean prediction sum to its prediction (Lundberg et al., "From local explanations to global understanding with
explainable AI for trees", 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import lightgbm as lgb
import numpy as np
import pandas as pd


def contributions(boosters: Sequence[lgb.Booster], values: np.ndarray) -> np.ndarray:
    """SHAP values of the mean of several models, float64 (posts, columns), in the unit of popularity.

    Args:
        boosters: at least one; the prediction is their mean.
        values: float32 (posts, columns), what they predict from.

    Raises:
        lightgbm.basic.LightGBMError: not the columns that they were trained on.
    """
    if not len(values):
        return np.zeros(values.shape)
    # The last column is the mean prediction.
    return np.mean([np.asarray(booster.predict(values, pred_contrib=True))[:, :-1] for booster in boosters], axis=0)


def importances(
    boosters: Sequence[lgb.Booster], shap: np.ndarray, columns: Sequence[str], groups: Sequence[str]
) -> pd.DataFrame:
    """Every column of the matrix, the strongest by SHAP first.

    Args:
        boosters: the models.
        shap: their `contributions`, (posts, columns).
        columns: names.
        groups: the group of each column.

    Returns:
        column, family (its group), gain (LightGBM's total gain of the column's splits, mean over the boosters),
        gain_share, shap (mean |contribution| over the posts), shap_share. Shares sum to 1; NaN where there is nothing
        to share.
    """
    gain = np.mean([booster.feature_importance("gain") for booster in boosters], axis=0)
    shares = pd.DataFrame({"gain": gain, "shap": pd.DataFrame(shap).abs().mean()})
    frame = pd.DataFrame({"column": list(columns), "family": list(groups)})
    for name in shares:
        frame[name], frame[f"{name}_share"] = shares[name], _share(shares[name])
    return frame.sort_values(["shap", "gain", "column"], ascending=[False, False, True], ignore_index=True)


def importances_by_group(single: pd.DataFrame, shap: np.ndarray, groups: Sequence[str]) -> pd.DataFrame:
    """Every group of columns, the strongest by SHAP first.

    Args:
        single: the `importances` of the columns.
        shap: the `contributions`, (posts, columns).
        groups: the group of each column.

    Returns:
        family (the group), columns (how many), gain_share, shap (mean over the posts of |the sum of the group's
        contributions|, which is less than the sum of its columns' where these cancel out), shap_share. Shares sum to 1.
    """
    found = single.groupby("family").agg(
        columns=("column", "size"), gain_share=("gain_share", lambda shares: shares.sum(min_count=1))
    )
    found["shap"] = pd.DataFrame(shap.T).groupby(list(groups)).sum().abs().mean(axis=1)
    found["shap_share"] = _share(found["shap"])
    return found.reset_index().sort_values(
        ["shap", "gain_share", "family"], ascending=[False, False, True], ignore_index=True
    )


def _share(values: pd.Series) -> pd.Series:
    total = values.sum()
    return values / total if total > 0 else values * np.nan
