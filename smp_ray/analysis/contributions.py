"""Which columns the predictor uses: the gain of its splits, and its SHAP values.

A SHAP value is what a column adds to the prediction of one post, in the unit of popularity; the values of a post and
the mean prediction sum to its prediction (Lundberg et al., "From local explanations to global understanding with
explainable AI for trees", 2020).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def importances(gain: np.ndarray, shap: np.ndarray, columns: Sequence[str], groups: Sequence[str]) -> pd.DataFrame:
    """Every column of the matrix, the strongest by SHAP first.

    Args:
        gain: total gain of each column's splits, (columns,), the mean over the models.
        shap: SHAP values, (posts, columns), in the unit of popularity, the mean over the models.
        columns: names.
        groups: the group of each column.

    Returns:
        column, family (its group), gain, gain_share, shap (mean |contribution| over the posts), shap_share. Shares sum
        to 1; NaN where there is nothing to share.
    """
    shares = pd.DataFrame({"gain": gain, "shap": pd.DataFrame(shap).abs().mean()})
    frame = pd.DataFrame({"column": list(columns), "family": list(groups)})
    for name in shares:
        frame[name], frame[f"{name}_share"] = shares[name], _share(shares[name])
    return frame.sort_values(["shap", "gain", "column"], ascending=[False, False, True], ignore_index=True)


def importances_by_group(single: pd.DataFrame, shap: np.ndarray, groups: Sequence[str]) -> pd.DataFrame:
    """Every group of columns, the strongest by SHAP first.

    Args:
        single: the `importances` of the columns.
        shap: the SHAP values, (posts, columns).
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
