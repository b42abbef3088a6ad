"""Which columns the predictor uses: the gain of its splits, and its SHAP values.

A SHAP value is what a column adds to the prediction of one post, in the unit of popularity; the values of a post and
the mean prediction sum to its prediction (Lundberg et al., "From local explanations to global understanding with
explainable AI for trees", 2020).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def importances(gain: np.ndarray, shap: np.ndarray, columns: Sequence[str], groups: Sequence[str]) -> pd.DataFrame:
    """Every column of the matrix, the strongest by SHAP first, from gains (columns,) and SHAP values (posts, columns).

    Returns:
        column, family (its group), gain, gain_share, shap (mean |contribution| over the posts), shap_share. Shares sum
        to 1; NaN where there is nothing to share.
    """
    frame = pd.DataFrame({"column": list(columns), "family": list(groups)})
    for name, values in {"gain": pd.Series(gain), "shap": pd.DataFrame(shap).abs().mean()}.items():
        frame[name], frame[f"{name}_share"] = values, values / (values.sum() or np.nan)
    return frame.sort_values(["shap", "gain", "column"], ascending=[False, False, True], ignore_index=True)


def importances_by_group(single: pd.DataFrame, shap: np.ndarray, groups: Sequence[str]) -> pd.DataFrame:
    """Every group of columns, the strongest by SHAP first, from what `importances` took and gave.

    Returns:
        family (the group), columns (how many), gain_share, shap (mean over the posts of |the sum of the group's
        contributions|, which is less than the sum of its columns' where these cancel out), shap_share. Shares sum to 1.
    """
    found = single.groupby("family").agg(
        columns=("column", "size"), gain_share=("gain_share", lambda shares: shares.sum(min_count=1))
    )
    found["shap"] = pd.DataFrame(shap.T).groupby(list(groups)).sum().abs().mean(axis=1)
    found["shap_share"] = found["shap"] / (found["shap"].sum() or np.nan)
    return found.reset_index().sort_values(
        ["shap", "gain_share", "family"], ascending=[False, False, True], ignore_index=True
    )
