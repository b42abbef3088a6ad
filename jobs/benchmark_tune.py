"""The sweep on Ray Tune against plain Optuna, with the same trials, space, folds, bins, objective and cores.

    python jobs/benchmark_tune.py --trials 30                        # a made-up table
    python jobs/benchmark_tune.py --folds folds.pkl --grace 60       # a pickled list of FoldData

Each contender runs in a process of its own, in turn. Plain Optuna runs twice, one trial at a time on all cores and as
many as there are cores side by side with one thread each, and the faster counts. Start-up (Ray, bins, processes) is
shown apart; the sweep's seconds begin with the first trial.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from smp_ray.config import Choice, FloatRange, MatrixFamily, RayConfig, SearchRange, TuneConfig
from smp_ray.ray_session import available_cores, ray_session
from smp_ray.training.booster import BinnedFold, Lockstep, bin_fold
from smp_ray.training.lightgbm_params import dataset_params, default_point
from smp_ray.training.matrix import FoldData, Matrix
from smp_ray.training.trial import trial_params
from smp_ray.workspace import Workspace

MAX_BIN = 255
RAY, ONE_BY_ONE, SIDE_BY_SIDE = "ray tune", "optuna, one trial on all cores", "optuna, one trial a core"


def main() -> None:
    """Run all contenders and print how they compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=Path, help="pickled list of FoldData; default: a made-up table")
    parser.add_argument("--posts", type=int, default=3000, help="of the made-up table")
    parser.add_argument("--columns", type=int, default=40, help="of the made-up table")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--max-rounds", type=int, default=1000)
    parser.add_argument("--grace", type=int, help="grace rounds of the successive halving; default: the config's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contender", choices=[RAY, ONE_BY_ONE, SIDE_BY_SIDE], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        print(json.dumps(_contend(given)))
        return
    print(f"{given.trials} trials on {given.folds or f'{given.posts} made-up posts'}, {available_cores()} cores")
    found = {name: _run_apart(name) for name in (RAY, ONE_BY_ONE, SIDE_BY_SIDE)}
    compare(found)


def compare(found: dict[str, dict[str, Any]]) -> None:
    """Print each contender's figures, and Ray Tune's against the faster Optuna's."""
    opponent = min((ONE_BY_ONE, SIDE_BY_SIDE), key=lambda name: _seconds(found[name]))
    equal = min(_seconds(found[RAY]), _seconds(found[opponent]))
    print(f"\n{'':<32}{'start-up':>10}{'sweep':>10}{'best MAE':>10}{f'after {equal:.1f} s':>16}")
    for name, result in found.items():
        best = min(value for _, value in result["trace"])
        early = [value for at, value in result["trace"] if at <= equal]
        at_equal = f"{min(early):.5f}" if early else "none yet"
        print(f"{name:<32}{result['startup']:>8.1f} s{_seconds(result):>8.1f} s{best:>10.5f}{at_equal:>16}")
    print(f"\nopponent: {opponent}")
    print(f"ray tune's speed for the same number of trials: {_seconds(found[opponent]) / _seconds(found[RAY]):.2f}")


def _seconds(result: dict[str, Any]) -> float:
    return float(max(at for at, _ in result["trace"]))


def _run_apart(name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--contender", name]
    # Threads that wait actively for each other stand still where other programs take their core.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {_seconds(result):.1f} s", flush=True)
    return result


def _contend(given: argparse.Namespace) -> dict[str, Any]:
    """One contender's start-up seconds and, for each trial, the second in which it ended and its result."""
    folds = pickle.loads(given.folds.read_bytes()) if given.folds else made_up_folds(given.posts, given.columns)
    settings: dict[str, Any] = {"trials": given.trials, "max_rounds": given.max_rounds, "seed": given.seed}
    if given.grace:
        settings["asha"] = {"grace_rounds": given.grace}
    if given.contender == RAY:
        return _ray(TuneConfig(**settings), folds)
    cores = available_cores()
    side_by_side = given.contender == SIDE_BY_SIDE
    threads = 1 if side_by_side else cores
    return _optuna(TuneConfig(**settings, cpus_per_trial=threads), folds, cores if side_by_side else 1)


def _ray(settings: TuneConfig, folds: list[FoldData]) -> dict[str, Any]:
    from smp_ray.training.sweep import run_sweep

    began = time.time()
    posts = sum(len(fold.validation_positions) for fold in folds)
    with tempfile.TemporaryDirectory(prefix="smp_ray_benchmark_") as folder, ray_session(RayConfig()) as session:
        workspace = Workspace.open(folder)
        session.start()
        started = time.time() - began
        sweep = run_sweep(settings, MAX_BIN, workspace, "sweep", posts, lambda: folds, session)
    records = sweep.records.values()
    first = min(record.started_after_seconds for record in records)
    trace = [(r.started_after_seconds + r.seconds - first, r.objective) for r in records if r.objective is not None]
    return {"startup": started + sweep.startup_seconds, "trace": sorted(trace)}


def _optuna(settings: TuneConfig, folds: list[FoldData], jobs: int) -> dict[str, Any]:
    import optuna

    began = time.time()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shape = dataset_params(trial_params(settings, MAX_BIN, 0, {}))
    # A set of Datasets a thread: LightGBM does not promise that two boosters may share one at the same time.
    free: list[list[BinnedFold]] = [[bin_fold(fold, shape) for fold in folds] for _ in range(jobs)]
    lock = threading.Lock()
    trace: list[tuple[float, float]] = []
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=settings.seed, multivariate=True, constant_liar=True)
    )
    study.enqueue_trial(default_point(settings.space))

    def objective(trial: optuna.Trial) -> float:
        searched = {name: _suggested(trial, name, range_) for name, range_ in settings.space.items()}
        with lock:
            binned = free.pop()
        params = trial_params(settings, MAX_BIN, trial.number, searched)
        lockstep = Lockstep(binned, params, settings.objective)
        for _ in lockstep.run(settings.max_rounds, settings.early_stopping_rounds):
            pass
        with lock:
            free.append(binned)
            trace.append((time.time() - first, lockstep.best))
        return lockstep.best

    first = time.time()
    study.optimize(objective, n_trials=settings.trials, n_jobs=jobs)
    return {"startup": first - began, "trace": sorted(trace)}


def _suggested(trial: Any, name: str, range_: SearchRange) -> Any:
    if isinstance(range_, Choice):
        return trial.suggest_categorical(name, range_.values)
    if isinstance(range_, FloatRange):
        return trial.suggest_float(name, range_.low, range_.high, log=range_.log)
    return trial.suggest_int(name, range_.low, range_.high, log=range_.log)


def made_up_folds(posts: int, columns: int, count: int = 5, seed: int = 0) -> list[FoldData]:
    """Folds of a table of numbers, a twentieth of them missing, whose label depends on a few, with heavy noise."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(posts, columns)).astype(np.float32)
    popularity = 6 + 2 * values[:, 0] + np.sin(3 * values[:, 1]) + values[:, 2] * values[:, 3]
    popularity = popularity.astype(np.float64) + rng.standard_t(3, size=posts)
    values[rng.random(values.shape) < 0.05] = np.nan
    fold_of = rng.permutation(posts) % count
    names = tuple(f"number_{place}" for place in range(columns))
    family: MatrixFamily = "metadata"
    families = (family,) * columns

    def part(which: np.ndarray) -> Matrix:
        return Matrix(values[which], names, families, (), {})

    found = []
    for fold in range(count):
        inside = fold_of == fold
        found.append(
            FoldData(
                fold, part(~inside), popularity[~inside], part(inside), popularity[inside], np.flatnonzero(inside)
            )
        )  # fmt: skip
    return found


if __name__ == "__main__":
    main()
