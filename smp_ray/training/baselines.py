"""What the tuned model is compared with, on the same folds and the same matrix.

`mean` predicts the mean label of the training posts, `user_mean` the mean label of the user's training posts (else
`mean`; under user-disjoint folds that is always so), `lightgbm_default` is LightGBM as it comes, for each fold with as
many rounds as are best on the other folds, and `ncku_dart` has the settings of the paper's team.
"""

import numpy as np
import pandas as pd
import ray

from smp_ray.config import CPUS_PER_TRIAL, LIGHTGBM, Config
from smp_ray.run import Run
from smp_ray.store.manifest import Made, Manifest
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.cross_fit import cross_fit
from smp_ray.training.boosting.registry import find
from smp_ray.training.matrix.matrix import load_folds
from smp_ray.training.out_of_fold import write_out_of_fold
from smp_ray.training.splits import Splits, load_splits

#: The settings of the paper's team, from its published code.
_NCKU_DART = {
    "boosting": "dart", "learning_rate": 0.02, "num_leaves": 128, "max_depth": 7, "feature_fraction": 0.9,
    "objective": "regression",
}  # fmt: skip
#: dart never stops early: its later trees change the earlier ones.
_NCKU_ROUNDS = 1500
#: LightGBM's own defaults: nothing is set but the loss, which is its default, too.
_LIGHTGBM_DEFAULT = {"objective": "regression"}


def mean_prediction(splits: Splits) -> np.ndarray:
    """The mean label of the training posts of each post's fold, float64 (posts,); NaN for posts without a fold."""
    prediction = np.full(len(splits.popularity), np.nan)
    for fold in range(splits.count):
        prediction[splits.validation(fold)] = splits.popularity[splits.training(fold)].mean()
    return prediction


def user_mean_prediction(splits: Splits) -> np.ndarray:
    """The mean label of the user's own training posts, else of all, float64 (posts,); NaN for posts without a fold."""
    prediction = mean_prediction(splits)
    for fold in range(splits.count):
        training, judged = splits.training(fold), splits.validation(fold)
        means = pd.Series(splits.popularity[training]).groupby(splits.users[training]).mean()
        own = means.reindex(splits.users[judged]).to_numpy()
        prediction[judged] = np.where(np.isnan(own), prediction[judged], own)
    return prediction


def baselines(run: Run, folder: str, matrix: Manifest, splits: Manifest) -> Made:
    """Compute and store the configured baselines' out-of-fold predictions."""
    names, folds = run.config.training.baselines, load_splits(run.workspace, splits)
    simple = {"mean": mean_prediction, "user_mean": user_mean_prediction}
    cpus = run.session.cpus_of(run.config.training.tune.cpus_per_trial, CPUS_PER_TRIAL)
    train = ray.remote(num_cpus=cpus)(_train)
    shared, every = ray.put(folds), list(range(folds.count))
    # dart's folds do not wait for each other, so each is a task of its own.
    parts = {"lightgbm_default": [every], "ncku_dart": [[fold] for fold in every]}
    running = {
        name: [train.remote(name, run.config, run.workspace, matrix, shared, part) for part in parts.get(name, ())]
        for name in names
    }
    predictions: dict[str, np.ndarray] = {}
    for name in names:
        if name in simple:
            predictions[name] = simple[name](folds)
        else:
            predictions[name] = np.where(folds.judged, np.nansum(ray.get(running[name]), axis=0), np.nan)
    return Made(
        rows=len(folds.row_ids),
        fragments=[write_out_of_fold(run.workspace, folder, folds, predictions)],
        details={"variants": {name: {"column": name} for name in names}},
        note=", ".join(names),
    )


def _train(
    name: str, config: Config, workspace: Workspace, matrix: Manifest, splits: Splits, folds: list[int]
) -> np.ndarray:
    """Prediction of one baseline on some folds, float64 (posts,), NaN for all other posts. Runs as a Ray task."""
    dart, sweep = name == "ncku_dart", config.training.tune
    params = {**(_NCKU_DART if dart else _LIGHTGBM_DEFAULT), **sweep.bins}
    data = load_folds(workspace, matrix, splits, folds)
    grown = cross_fit(find(LIGHTGBM), data, params, sweep, _NCKU_ROUNDS if dart else None)
    return grown.out_of_fold(len(splits.row_ids))
