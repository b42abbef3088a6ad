"""The sweep as an Optuna study, what it found and when, and which parameters mattered.

Trials are the rows of `trials.parquet` as `training.tune` writes it; parameters are the columns `param_<name>`.
"""

import json
from collections.abc import Mapping

import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution

from smp_ray.config import SearchRange

PARAMETER = "param_"
#: Fewer completed trials say nothing about parameters.
_FEWEST_TRIALS = 5
_TREES = 64


def study_of(trials: pd.DataFrame, space: Mapping[str, SearchRange]) -> optuna.Study:
    """A study that holds every trial with an objective as a completed one, in order."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    searched = {name: range_.distribution() for name, range_ in space.items() if f"{PARAMETER}{name}" in trials}
    for row in trials[trials["objective"].notna()].to_dict("records"):
        params = {name: row[f"{PARAMETER}{name}"] for name in searched}
        for name, distribution in searched.items():
            # Choices of several kinds are stored as JSON.
            if isinstance(distribution, CategoricalDistribution) and params[name] not in distribution.choices:
                params[name] = json.loads(params[name])
        study.add_trial(optuna.create_trial(params=params, distributions=searched, value=row["objective"]))
    return study


def best_over_time(trials: pd.DataFrame) -> pd.DataFrame:
    """The best objective so far, in the order in which the trials ended.

    Returns:
        trial, finished_after_seconds (since the sweep began), objective, best (lowest up to then; NaN before the first
        result), status. A trial that was stopped early counts with what it had reached.
    """
    frame = trials[["trial", "objective", "status"]].copy()
    frame.insert(1, "finished_after_seconds", trials["started_after_seconds"] + trials["seconds"])
    frame = frame.sort_values(["finished_after_seconds", "trial"], ignore_index=True)
    frame.insert(3, "best", frame["objective"].astype(float).cummin().ffill())
    return frame


def parameter_importance(trials: pd.DataFrame, space: Mapping[str, SearchRange], seed: int = 0) -> pd.DataFrame:
    """Share of each parameter in the variance of the objective over the searched space (fANOVA, Hutter et al. 2014).

    Only completed trials are compared, for a stopped one would have become better.

    Returns:
        parameter, importance (they sum to 1), the most important first. No rows with fewer than 5 completed trials, or
        where the parameters or the objective never changed.
    """
    study = study_of(trials[trials["status"] == "completed"], space)
    found: dict[str, float] = {}
    distributions = study.trials[0].distributions if study.trials else {}
    names = [name for name, distribution in distributions.items() if not distribution.single()]
    if names and len(study.trials) >= _FEWEST_TRIALS and len({trial.value for trial in study.trials}) > 1:
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=seed)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)
    frame = pd.DataFrame({"parameter": list(found), "importance": pd.Series(found.values(), dtype=float)})
    return frame.sort_values(["importance", "parameter"], ascending=[False, True], ignore_index=True)
