"""What the tuned model is compared with, on the same folds and the same matrix.

`mean` predicts the mean label of the training posts, `user_mean` the mean label of the user's training posts (else
`mean`; under user-disjoint folds that is always so), `lightgbm_default` is LightGBM as it comes with early stopping,
and `ncku_dart` has the settings of the paper's team.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from smp_ray.config import Config
from smp_ray.ray_session import RaySession
from smp_ray.training.evaluate import write_out_of_fold
from smp_ray.training.matrix import load_fold
from smp_ray.training.splits import Splits
from smp_ray.workspace import Manifest, Workspace

STAGE = "baselines"
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


def baselines(
    config: Config, workspace: Workspace, splits: Splits, matrix: Manifest, session: RaySession, key: str
) -> Manifest:
    """Compute and store the configured baselines' out-of-fold predictions; a no-op where that was done."""
    if (done := workspace.manifest(STAGE, key)) is not None:
        return done
    began = time.monotonic()
    names = config.training.baselines
    predictions: dict[str, np.ndarray] = {}
    details: dict[str, Any] = {}
    if "mean" in names:
        predictions["mean"] = mean_prediction(splits)
    if "user_mean" in names:
        predictions["user_mean"] = user_mean_prediction(splits)
    boosted = [name for name in names if name in ("lightgbm_default", "ncku_dart")]
    if boosted:
        session.start()
        import ray

        cpus = session.cpus_of(config.training.tune.cpus_per_trial)
        shared = ray.put(splits)
        # dart's folds do not wait for each other, so each is a task of its own.
        task = ray.remote(num_cpus=cpus)(_boosted)
        parts = {
            name: [task.remote(name, config, workspace, matrix, shared, folds) for folds in _portions(name, splits)]
            for name in boosted
        }
        for name, found in parts.items():
            results = ray.get(found)
            predictions[name] = np.nansum([part["prediction"] for part in results], axis=0)
            predictions[name][~splits.judged] = np.nan
            details[name] = {
                "rounds": results[0]["rounds"], "seconds": round(sum(part["seconds"] for part in results), 3)
            }  # fmt: skip
    workspace.make_dir(STAGE, key)
    ordered = {str(name): predictions[name] for name in names}
    fragment = write_out_of_fold(workspace, f"{STAGE}/{key}/out_of_fold.parquet", splits, ordered)
    return workspace.commit(
        Manifest(
            stage=STAGE, fingerprint=key, config={"baselines": list(names)}, inputs={"matrix": matrix.fingerprint},
            rows=len(splits.row_ids), wall_seconds=round(time.monotonic() - began, 3), fragments=[fragment],
            details=details,
        )
    )  # fmt: skip


def _portions(name: str, splits: Splits) -> list[list[int]]:
    every = list(range(splits.count))
    return [[fold] for fold in every] if name == "ncku_dart" else [every]


def _boosted(
    name: str, config: Config, workspace: Workspace, matrix: Manifest, splits: Splits, folds: list[int]
) -> dict[str, Any]:
    """Train one baseline on some folds. Runs as a Ray task."""
    from smp_ray.training.booster import out_of_fold

    sweep = config.training.tune
    dart = name == "ncku_dart"
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
