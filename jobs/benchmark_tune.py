"""The sweep on Ray Tune against plain Optuna: same space, folds, bins, objective and cores, in one run.

    python jobs/benchmark_tune.py --config configs/smp-video.yaml --seeds 0 1 2     # after smp-ray tune
    python jobs/benchmark_tune.py --trials 30                                       # a made-up table

For each seed, each contender runs in a process of its own, in turn. Plain Optuna runs as many trials side by side as
there are cores, with one thread each: once the very trials that Ray Tune made, so that only the speed differs, and
once trials of its own (trials side by side end in another order, so its TPE suggests others). `--all-cores` adds
Optuna with one trial at a time on all cores. Start-up (Ray, bins, processes) is counted and shown apart.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from smp_ray.config import METADATA, Choice, Config, FloatRange, RayConfig, SearchRange, TuneConfig, load_config
from smp_ray.ray_session import RaySession, available_cores, ray_session
from smp_ray.store.manifest import Manifest
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.booster import BinnedFold, Lockstep, bin_fold
from smp_ray.training.boosting.lightgbm_params import dataset_params, default_point
from smp_ray.training.matrix.matrix import FoldData, Matrix
from smp_ray.training.sweep.trial import trial_params

RAY, SAME, OWN = "ray tune", "optuna, the same trials", "optuna, trials of its own"
ALL_CORES = "optuna, one trial on all cores"


def main() -> None:
    """Run all contenders and print how they compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="whose features are computed; default: a made-up table")
    parser.add_argument("--set", action="append", default=[], help="overrides of the configuration")
    parser.add_argument("--workspace", help="instead of the configuration's")
    parser.add_argument("--posts", type=int, default=3000, help="of the made-up table")
    parser.add_argument("--columns", type=int, default=40, help="of the made-up table")
    parser.add_argument("--trials", type=int, help="default: the configuration's")
    parser.add_argument("--max-rounds", type=int, help="default: the configuration's")
    parser.add_argument("--grace", type=int, help="grace rounds of the successive halving")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--all-cores", action="store_true", help="also one trial at a time on all cores")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        name, folder = given.contender
        print(json.dumps(_contend(name, Path(folder))))
        return
    names = [RAY, SAME, OWN, *([ALL_CORES] if given.all_cores else [])]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    settings, max_bin, folds = _prepare(given)
    with tempfile.TemporaryDirectory(prefix="smp_ray_benchmark_") as folder:
        for seed in given.seeds:
            task = settings.model_copy(update={"seed": seed}), max_bin, folds
            Path(folder, "task.pkl").write_bytes(pickle.dumps(task))
            for name in names:
                found[name].append(_run_apart(name, folder))
                last = found[name][-1]
                print(
                    f"seed {seed}, {settings.trials} trials, {name}: start-up {last['startup']:.1f} s, sweep "
                    f"{seconds(last):.1f} s, cores busy {last['busy']:.0%}, best {best(last):.5f}",
                    flush=True,
                )
    compare(found)


def compare(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the contenders' means over the seeds, and Ray Tune's ratio to each opponent, seed by seed."""
    names = list(found)
    limits = [min(seconds(found[name][place]) for name in (RAY, OWN)) for place in range(len(found[RAY]))]
    print(f"\nmeans of {len(limits)} seeds, {available_cores()} cores")
    print(f"{'':<32}{'start-up':>10}{'sweep':>10}{'best':>10}{'at equal time':>16}")
    for name in names:
        runs = found[name]
        start = statistics.mean(run["startup"] for run in runs)
        sweep, top = (statistics.mean(map(measure, runs)) for measure in (seconds, best))
        equal = statistics.mean(best(run, limit) for run, limit in zip(runs, limits, strict=True))
        print(f"{name:<32}{start:>8.1f} s{sweep:>8.1f} s{top:>10.5f}{equal:>16.5f}")
    print("\nequal time: the shorter sweep of Ray Tune and of Optuna with trials of its own, by seed")
    for name in names[1:]:
        pairs = list(zip(found[name], found[RAY], strict=True))
        bare = [seconds(theirs) / seconds(ours) for theirs, ours in pairs]
        whole = [(theirs["startup"] + seconds(theirs)) / (ours["startup"] + seconds(ours)) for theirs, ours in pairs]
        print(
            f"ray tune against {name}: {statistics.mean(bare):.2f} times as fast "
            f"({', '.join(f'{ratio:.2f}' for ratio in bare)}), start-up counted {statistics.mean(whole):.2f}"
        )


def seconds(run: dict[str, Any]) -> float:
    """From the start of the first trial to the end of the last."""
    return float(max(at for at, _ in run["trace"]))


def best(run: dict[str, Any], until: float = float("inf")) -> float:
    """Lowest objective of the trials that ended within so many seconds."""
    return float(min((value for at, value in run["trace"] if at <= until), default=float("nan")))


def _prepare(given: argparse.Namespace) -> tuple[TuneConfig, int, list[FoldData]]:
    """The sweep's settings, number of bins, and folds, which all seeds share."""
    if given.config:
        config = load_config(given.config, given.set, given.workspace)
        settings, max_bin, folds = config.training.tune, config.training.matrix.max_bin, _stored_folds(config)
    else:
        settings, max_bin, folds = TuneConfig(), 255, made_up_folds(given.posts, given.columns)
    update: dict[str, Any] = {"cpus_per_trial": 1}
    update |= {name: value for name in ("trials", "max_rounds") if (value := getattr(given, name))}
    if given.grace and settings.asha is not None:
        update["asha"] = settings.asha.model_copy(update={"grace_rounds": given.grace})
    return settings.model_copy(update=update), max_bin, folds


def _stored_folds(config: Config) -> list[FoldData]:
    from smp_ray.pipeline import open_run
    from smp_ray.training.matrix.matrix import load_folds
    from smp_ray.training.splits import load_splits

    run = open_run(config, RaySession(config.ray))
    matrix, splits = run.artefact("matrix"), run.artefact("splits")
    if not isinstance(matrix, Manifest) or not isinstance(splits, Manifest):
        sys.exit("there is no matrix for this configuration; run smp-ray tune first")
    return load_folds(run.workspace, matrix, load_splits(run.workspace, splits))


def _run_apart(name: str, folder: str) -> dict[str, Any]:
    # Threads that wait actively for each other stand still where other programs take their core.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, __file__, "--contender", name, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _contend(name: str, folder: Path) -> dict[str, Any]:
    """One contender's start-up seconds and, for each trial, the second in which it ended and its result."""
    settings, max_bin, folds = pickle.loads((folder / "task.pkl").read_bytes())
    if name == RAY:
        result = _ray(settings, max_bin, folds)
        (folder / "trials.json").write_text(json.dumps(result["params"]))
        return result
    if name == ALL_CORES:
        return _optuna(settings.model_copy(update={"cpus_per_trial": available_cores()}), max_bin, folds, 1, [])
    same = json.loads((folder / "trials.json").read_text()) if name == SAME else []
    return _optuna(settings, max_bin, folds, available_cores(), same)


def _ray(settings: TuneConfig, max_bin: int, folds: list[FoldData]) -> dict[str, Any]:
    from smp_ray.training.sweep.sweep import run_sweep

    began = time.time()
    posts = sum(len(fold.validation_positions) for fold in folds)
    with tempfile.TemporaryDirectory(prefix="smp_ray_benchmark_") as folder, ray_session(RayConfig()) as session:
        workspace = Workspace.open(folder)
        session.start()
        started = time.time() - began
        sweep = run_sweep(settings, max_bin, workspace, "sweep", posts, lambda: folds, session.cores)
    records = [sweep.records[number] for number in sorted(sweep.records)]
    first = min(record.started_after_seconds for record in records)
    trace = [(r.started_after_seconds + r.seconds - first, r.objective) for r in records if r.objective is not None]
    busy = sum(record.seconds for record in records) / (sweep.concurrency * max(at for at, _ in trace))
    params = [record.params for record in records]
    return {"startup": started + sweep.startup_seconds, "trace": sorted(trace), "busy": busy, "params": params}


def _optuna(
    settings: TuneConfig, max_bin: int, folds: list[FoldData], jobs: int, same: list[dict[str, Any]]
) -> dict[str, Any]:
    """Plain Optuna, `jobs` trials side by side; `same`: parameters of the trials, in order."""
    import optuna

    began = time.time()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shape = dataset_params(trial_params(settings, max_bin, 0, {}))
    # A set of Datasets a thread: LightGBM does not promise that two boosters may share one at the same time.
    free: list[list[BinnedFold]] = [[bin_fold(fold, shape) for fold in folds] for _ in range(jobs)]
    lock = threading.Lock()
    trace: list[tuple[float, float]] = []
    taken: list[float] = []
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=settings.seed, multivariate=True, constant_liar=True)
    )
    for params in same or [default_point(settings.space)]:
        study.enqueue_trial(params)

    def objective(trial: optuna.Trial) -> float:
        start = time.time()
        searched = {name: _suggested(trial, name, range_) for name, range_ in settings.space.items()}
        with lock:
            binned = free.pop()
        params = trial_params(settings, max_bin, trial.number, searched)
        lockstep = Lockstep(binned, params, settings.objective)
        for _ in lockstep.run(settings.max_rounds, settings.early_stopping_rounds):
            pass
        with lock:
            free.append(binned)
            trace.append((time.time() - first, lockstep.best))
            taken.append(time.time() - start)
        return lockstep.best

    first = time.time()
    study.optimize(objective, n_trials=settings.trials, n_jobs=jobs)
    busy = sum(taken) / (jobs * max(at for at, _ in trace))
    return {"startup": first - began, "trace": sorted(trace), "busy": busy}


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

    def part(which: np.ndarray) -> Matrix:
        return Matrix(values[which], names, (METADATA,) * columns, (), {})

    found = []
    for fold in range(count):
        inside = fold_of == fold
        judged = part(inside), popularity[inside], np.flatnonzero(inside)
        found.append(FoldData(fold, part(~inside), popularity[~inside], *judged))
    return found


if __name__ == "__main__":
    main()
