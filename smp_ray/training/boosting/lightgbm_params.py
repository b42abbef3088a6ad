"""LightGBM's parameters: which are always set, which belong to the binned data, and its own defaults in a space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from smp_ray.config import Choice, IntRange, SearchRange, TuneConfig
from smp_ray.errors import ConfigError

Objective = Literal["mae", "mape"]

#: The loss for each objective. LightGBM's mape is the absolute error weighted by 1 / max(1, |label|).
LOSS: dict[Objective, str] = {"mae": "regression_l1", "mape": "mape"}
_LOSS_ALIASES = {"objective", "objective_type", "app", "application", "loss"}
#: Parameters that shape the bins, by LightGBM's main names and the aliases in use. All trials share one binned copy of
#: the data, so they can be fixed but not searched.
_OF_DATASET = {
    "max_bin", "max_bins", "max_bin_by_feature", "min_data_in_bin", "bin_construct_sample_cnt", "subsample_for_bin",
    "data_random_seed", "data_seed", "use_missing", "zero_as_missing", "enable_bundle", "is_enable_bundle", "bundle",
    "is_enable_sparse", "is_sparse", "enable_sparse", "sparse", "feature_pre_filter", "pre_partition",
    "forcedbins_filename", "linear_tree", "linear_trees",
}  # fmt: skip
#: Of LightGBM's defaults, those that a space may well hold.
_DEFAULTS: dict[str, Any] = {
    "learning_rate": 0.1, "num_leaves": 31, "max_depth": -1, "min_data_in_leaf": 20, "min_sum_hessian_in_leaf": 1e-3,
    "feature_fraction": 1.0, "feature_fraction_bynode": 1.0, "bagging_fraction": 1.0, "bagging_freq": 0,
    "lambda_l1": 0.0, "lambda_l2": 0.0, "linear_lambda": 0.0, "min_gain_to_split": 0.0, "max_delta_step": 0.0,
    "path_smooth": 0.0, "boosting": "gbdt", "data_sample_strategy": "bagging", "extra_trees": False,
    "drop_rate": 0.1, "max_drop": 50, "skip_drop": 0.5, "xgboost_dart_mode": False, "uniform_drop": False,
    "top_rate": 0.2, "other_rate": 0.1, "min_data_per_group": 100, "max_cat_threshold": 32, "cat_l2": 10.0,
    "cat_smooth": 10.0, "max_cat_to_onehot": 4, "alpha": 0.9, "fair_c": 1.0,
}  # fmt: skip


def complete_params(params: Mapping[str, Any], objective: Objective, seed: int, threads: int) -> dict[str, Any]:
    """`params` with the loss, seeds, threads and all that makes training repeatable.

    Args:
        params: as configured or searched; an `objective` among them is the loss.
        objective: picks the loss otherwise.
        seed: of bagging, of the choice of columns, of binning and of dart.
        threads: LightGBM's.
    """
    complete: dict[str, Any] = {**params}
    if not _LOSS_ALIASES & set(complete):
        complete["objective"] = LOSS[objective]
    goss = "goss" in (complete.get("boosting"), complete.get("data_sample_strategy"))
    if "bagging_fraction" in complete and not goss:
        # LightGBM ignores bagging_fraction unless bagging_freq says how often to draw; goss allows neither.
        complete.setdefault("bagging_freq", 1)
    return {
        **complete,
        "metric": "None",
        "seed": seed,
        "num_threads": threads,
        "deterministic": True,
        # Chosen by timing otherwise, and the two sum floating point numbers in different orders.
        "force_row_wise": not complete.get("force_col_wise", False),
        # Otherwise columns that no leaf of min_data_in_leaf posts can split are dropped from the shared bins.
        "feature_pre_filter": False,
        "verbosity": -1,
    }


def dataset_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `params` that shape the bins, and what silences binning."""
    kept = {"verbosity", "num_threads", "seed", "deterministic", "force_row_wise", "force_col_wise"}
    return {name: value for name, value in params.items() if name in _OF_DATASET or name in kept}


def check_space(settings: TuneConfig) -> None:
    """Whether all of a space can be searched on binned data.

    Raises:
        ConfigError: a parameter shapes the bins.
    """
    wrong = sorted(set(settings.space) & _OF_DATASET)
    if wrong:
        raise ConfigError(
            f"training.tune.space: {', '.join(wrong)} shapes the bins, which all trials share; set it in "
            "training.tune.params (max_bin: in training.matrix.max_bin)"
        )


def default_point(space: Mapping[str, SearchRange]) -> dict[str, Any]:
    """LightGBM's own settings as a point of the space: each default at the nearest value that its range allows.

    A parameter whose default is not known here takes its range's low end, or its first choice.
    """
    return {name: _nearest(range_, _DEFAULTS.get(name)) for name, range_ in space.items()}


def _nearest(range_: SearchRange, default: Any) -> Any:
    if isinstance(range_, Choice):
        return default if default in range_.values else range_.values[0]
    if default is None or isinstance(default, str):
        return range_.low
    value = min(max(default, range_.low), range_.high)
    return int(value) if isinstance(range_, IntRange) else float(value)
