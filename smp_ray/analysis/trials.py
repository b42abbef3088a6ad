"""What the sweep found and when, which parameters mattered, and all trials side by side.

Trials are the rows of `trials.parquet` as `training.tune` writes it; parameters are the columns `param_<name>`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

PARAMETER = "param_"
#: Fewer completed trials say nothing about parameters.
_FEWEST_TRIALS = 5
#: A parameter whose tried values span more than this factor is taken to be searched on the log scale.
_LOG_SPAN = 10
_TREES = 64


def best_over_time(trials: pd.DataFrame) -> pd.DataFrame:
    """The best objective so far, in the order in which the trials ended.

    Args:
        trials: trial, status, objective (NaN: failed), seconds, started_after_seconds.

    Returns:
        trial, finished_after_seconds (since the sweep began), objective, best (lowest up to then; NaN before the first
        result), status. A trial that was stopped early counts with what it had reached.
    """
    frame = pd.DataFrame(
        {
            "trial": trials["trial"],
            "finished_after_seconds": trials["started_after_seconds"] + trials["seconds"],
            "objective": trials["objective"].astype(np.float64),
        }
    )
    frame["status"] = trials["status"]
    frame = frame.sort_values(["finished_after_seconds", "trial"], ignore_index=True)
    frame.insert(3, "best", frame["objective"].cummin().ffill())
    return frame


def parameter_importance(trials: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Share of each parameter in the variance of the objective over the searched space (fANOVA, Hutter et al. 2014).

    Only completed trials are compared, for a stopped one would have become better. Ranges are those of the values that
    were tried, on the log scale where these span more than a factor of 10.

    Args:
        trials: status, objective and `param_<name>`.
        seed: of the random forest.

    Returns:
        parameter, importance (they sum to 1), the most important first; parameters that never changed are left out. No
        rows with fewer than 5 completed trials, or where no parameter or the objective never changed.
    """
    nothing = pd.DataFrame({"parameter": pd.Series(dtype=object), "importance": pd.Series(dtype=np.float64)})
    completed = trials[(trials["status"] == "completed") & trials["objective"].notna()]
    names = [name for name in _parameters(completed) if completed[name].nunique() > 1]
    completed = completed.dropna(subset=names)
    names = [name for name in names if completed[name].nunique() > 1]
    if len(completed) < _FEWEST_TRIALS or not names or completed["objective"].nunique() < 2:
        return nothing
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="minimize")
        space = {name: _distribution(completed[name]) for name in names}
        columns = {name: _plain(completed[name]) for name in names}
        for at, objective in enumerate(completed["objective"]):
            params = {name: columns[name][at] for name in names}
            study.add_trial(optuna.create_trial(params=params, distributions=space, value=float(objective)))
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=seed)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)
    pairs = [(name.removeprefix(PARAMETER), share) for name, share in found.items()]
    frame = pd.DataFrame(pairs, columns=["parameter", "importance"])
    return frame.sort_values(["importance", "parameter"], ascending=[False, True], ignore_index=True)


def parallel(trials: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """All trials that have a result, as numbers for parallel coordinates.

    Args:
        trials: trial, status, objective and `param_<name>`.

    Returns:
        trial, `param_<name>` for each parameter that was searched, objective, status; and for each parameter whose
        values are no numbers the texts behind its codes 0, 1, …
    """
    known = trials[trials["objective"].notna()].reset_index(drop=True)
    frame, labels = known[["trial"]].copy(), {}
    for name in _parameters(known):
        if _is_number(known[name]):
            frame[name] = known[name]
        else:
            values = known[name].map(str, na_action="ignore")
            labels[name] = sorted(values.dropna().unique())
            frame[name] = values.map({value: code for code, value in enumerate(labels[name])}).astype(np.float64)
    frame["objective"], frame["status"] = known["objective"].astype(np.float64), known["status"]
    return frame, labels


def _parameters(trials: pd.DataFrame) -> list[str]:
    return [name for name in trials.columns if name.startswith(PARAMETER)]


def _is_number(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column))


def _plain(column: pd.Series) -> list[Any]:
    """As Python's own numbers and texts, which Optuna asks for."""
    return list(column.tolist()) if _is_number(column) else [str(value) for value in column]


def _distribution(column: pd.Series) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not _is_number(column):
        return CategoricalDistribution(sorted(set(_plain(column))))
    low, high = column.min(), column.max()
    log = bool(low > 0 and high > _LOG_SPAN * low)
    if pd.api.types.is_integer_dtype(column):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)
