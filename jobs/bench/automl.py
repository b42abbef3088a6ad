"""The tuned model against AutoML libraries on the very same columns, labels and folds, given so many times as long.

    python -m jobs.bench.automl --config configs/smp-video.yaml --python /elsewhere/bin/python --library flaml

After `smp-ray tune`. The library (flaml, or autogluon: autogluon.tabular) is installed for another Python, as it wants
other versions of what both need. For each fold it gets the training posts, with their users as groups of its own
validation, and predicts the fold's posts; the seconds of the sweep, times `--times`, are divided by the folds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Run the library fold by fold and print how the two compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="whose sweep is committed")
    parser.add_argument("--set", action="append", default=[], help="overrides of the configuration")
    parser.add_argument("--workspace")
    parser.add_argument("--python", default=sys.executable, help="of the environment that has the library")
    parser.add_argument("--library", choices=["flaml", "autogluon"], default="flaml")
    parser.add_argument("--times", type=float, default=2.0, help="as long as the sweep took")
    parser.add_argument("--fold", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fold:
        _in_the_other(given.library, Path(given.fold), given.times)
    else:
        compare(given)


def compare(given: argparse.Namespace) -> None:
    """The library's out-of-fold predictions against those of the tuned model."""
    from smp_ray.config import load_config
    from smp_ray.evaluation.bootstrap import Bootstrap, estimates, interval
    from smp_ray.pipeline import open_run
    from smp_ray.training.matrix.matrix import load_folds
    from smp_ray.training.out_of_fold import TUNED, read_out_of_fold
    from smp_ray.training.splits import load_splits

    run = open_run(load_config(given.config, given.set, given.workspace))
    splits, matrix, tuned = (run.artefact(name) for name in ("splits", "matrix", "tune"))
    if tuned is None or matrix is None or splits is None or isinstance(tuned, dict):
        sys.exit("run `smp-ray tune` with these settings first")
    folds: Any = load_splits(run.workspace, splits)  # type: ignore[arg-type]
    seconds = given.times * tuned.details["sweep_seconds"] / folds.count
    theirs = np.full(len(folds.row_ids), np.nan)
    with tempfile.TemporaryDirectory(prefix="smp_ray_automl_") as folder:
        for data in load_folds(run.workspace, matrix, folds):  # type: ignore[arg-type]
            users = folds.users[folds.training(data.fold)]
            path = Path(folder) / f"{data.fold}.npz"
            np.savez(path, x=data.training.values, y=data.training_popularity, users=users, new=data.validation.values)
            call = [given.python, __file__, "--fold", str(path), "--library", given.library, "--times", str(seconds)]
            done = subprocess.run(call, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            theirs[data.validation_positions] = np.load(path.with_suffix(".npy"))
            print(f"fold {data.fold}: {done.stdout.strip().splitlines()[-1]}", file=sys.stderr)
    ours = read_out_of_fold(run.workspace, tuned, folds, TUNED)
    judged = folds.judged
    bootstrap = Bootstrap(folds.users[judged])
    both = [bootstrap.metrics(folds.popularity[judged], one[judged]) for one in (ours, theirs)]
    lines = {"tuned": both[0], given.library: both[1], f"tuned against {given.library}": both[0] - both[1]}
    for name, values in lines.items():
        found = {metric: interval(e.value, e.low, e.high) for metric, e in estimates(values).items()}
        print(json.dumps({"what": name, **found}))


def _in_the_other(library: str, path: Path, seconds: float) -> None:
    """One fold, in the environment of the library: nothing of this project is imported."""
    data, began = np.load(path), time.monotonic()
    if library == "flaml":
        model: Any = import_module("flaml").AutoML()
        # Its linear models end with an error where a value is missing.
        trees = ["lgbm", "xgboost", "xgb_limitdepth", "catboost", "rf", "extra_tree"]
        model.fit(
            data["x"], data["y"], task="regression", metric="mae", time_budget=seconds, eval_method="cv", n_splits=5,
            split_type="group", groups=data["users"], verbose=0, seed=0, estimator_list=trees,
        )  # fmt: skip
        chosen, prediction = str(model.best_estimator), model.predict(data["new"])
    else:
        frame = import_module("pandas").DataFrame(data["x"]).rename(columns=str)
        frame = frame.assign(label=data["y"], user=data["users"] % 5)
        tabular = import_module("autogluon.tabular")
        model = tabular.TabularPredictor("label", eval_metric="mean_absolute_error", groups="user", verbosity=0,
                                         path=str(path.with_suffix("")))  # fmt: skip
        model.fit(frame, time_limit=seconds, num_bag_folds=5, num_stack_levels=0)
        new = import_module("pandas").DataFrame(data["new"]).rename(columns=str).assign(user=0)
        chosen, prediction = str(model.model_best), np.asarray(model.predict(new))
    np.save(path.with_suffix(".npy"), np.asarray(prediction, dtype=np.float64))
    print(f"{chosen} in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
