"""What the tuned model is compared with, on the same folds and the same matrix.

`mean` predicts the mean label of the training posts, `user_mean` the mean label of the user's training posts (else
`mean`; under user-disjoint folds that is always so), `lightgbm_default` is LightGBM as it comes with early stopping,
and `ncku_dart` has the settings of the paper's team.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from smp_ray.config import Config
from smp_ray.run import Run
from smp_ray.store.manifest import Made, Manifest
from smp_ray.store.workspace import Workspace
from smp_ray.training.matrix.matrix import load_fold
from smp_ray.training.out_of_fold import write_out_of_fold
from smp_ray.training.splits import Splits, load_splits

LIGHTGBM, NCKU = "lightgbm_default", "ncku_dart"
#: dart never stops early: its later trees change the earlier ones.
NCKU_ROUNDS = 1500
#: The settings of the paper's team, from its published code.
NCKU_DART: dict[str, Any] = {
    "boosting": "dart", "learning_rate": 0.02, "num_leaves": 128, "max_depth": 7, "feature_fraction": 0.9,
    "objective": "regression",
}  # fmt: skip
#: LightGBM's own defaults: nothing is set but the loss, which is its default, too.
LIGHTGBM_DEFAULT: dict[str, Any] = {"objective": "regression"}


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
        size = int(splits.users.max()) + 1
        posts = np.bincount(splits.users[training], minlength=size)
        total = np.bincount(splits.users[training], weights=splits.popularity[training], minlength=size)
        known = judged & (posts[splits.users] > 0)
        prediction[known] = total[splits.users[known]] / posts[splits.users[known]]
    return prediction


def baselines(run: Run, folder: str, matrix: Manifest, splits: Manifest) -> Made:
    """Compute and store the configured baselines' out-of-fold predictions."""
    names = run.config.training.baselines
    folds = load_splits(run.workspace, splits)
    boosted = _boosted(run, matrix, folds)
    by_name = {"mean": mean_prediction, "user_mean": user_mean_prediction}
    predictions: dict[str, np.ndarray] = {}
    variants: dict[str, dict[str, Any]] = {}
    for name in names:
        variants[name] = {"column": name}
        if name in by_name:
            predictions[name] = by_name[name](folds)
        else:
            predictions[name], facts = boosted[name]
            variants[name] |= facts
    return Made(
        rows=len(folds.row_ids),
        fragments=[write_out_of_fold(run.workspace, folder, folds, predictions)],
        details={"variants": variants},
        note=", ".join(names),
    )


def _boosted(run: Run, matrix: Manifest, splits: Splits) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Predictions of the configured baselines that are trained, and their rounds and seconds."""
    import ray

    shared = ray.put(splits)
    # dart's folds do not wait for each other, so each is a task of its own.
    every = list(range(splits.count))
    portions = {LIGHTGBM: [every], NCKU: [[fold] for fold in every]}
    task = ray.remote(num_cpus=run.session.cpus_of(run.config.training.tune.cpus_per_trial))(_train)
    parts = {
        name: [task.remote(name, run.config, run.workspace, matrix, shared, folds) for folds in portions[name]]
        for name in run.config.training.baselines
        if name in portions
    }
    found = {}
    for name, references in parts.items():
        results = ray.get(references)
        prediction = np.nansum([part["prediction"] for part in results], axis=0)
        prediction[~splits.judged] = np.nan
        seconds = round(sum(part["seconds"] for part in results), 3)
        found[str(name)] = prediction, {"rounds": results[0]["rounds"], "seconds": seconds}
    return found


def _train(
    name: str, config: Config, workspace: Workspace, matrix: Manifest, splits: Splits, folds: list[int]
) -> dict[str, Any]:
    """Train one baseline on some folds. Runs as a Ray task."""
    from smp_ray.training.boosting.booster import out_of_fold

    sweep = config.training.tune
    dart = name == NCKU
    result = out_of_fold(
        [load_fold(workspace, matrix, splits, fold) for fold in folds],
        NCKU_DART if dart else LIGHTGBM_DEFAULT,
        objective=sweep.objective,
        max_rounds=NCKU_ROUNDS if dart else sweep.max_rounds,
        early_stopping_rounds=None if dart else sweep.early_stopping_rounds,
        posts=len(splits.row_ids),
        max_bin=config.training.matrix.max_bin,
        threads=sweep.cpus_per_trial,
        seed=sweep.seed,
    )
    return {"prediction": result.prediction, "rounds": result.rounds, "seconds": result.seconds}
