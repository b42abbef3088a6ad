"""The sweep on Ray Tune against plain Optuna: the same trials, folds, rounds and number of processes, in one run.

    python -m jobs.bench.tune --config configs/smp-video.yaml --seeds 0 1 2     # after smp-ray tune
    python -m jobs.bench.tune --trials 30                                       # a made-up table

For each seed Ray Tune runs first; then plain Optuna, in as many processes as Ray Tune has trials side by side, runs the
very trials that Ray Tune made, each for as many rounds, so that only the speed differs. Each process bins the data once
within its time; start-up (Ray, processes, reading the matrix) is shown apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from smp_ray.config import METADATA, Config, RayConfig, TuneConfig, build_config, load_config
from smp_ray.pipeline import open_run
from smp_ray.ray_session import RaySession, ray_session
from smp_ray.store.manifest import Manifest
from smp_ray.store.workspace import Workspace
from smp_ray.training.matrix.matrix import FoldData, Matrix, load_folds
from smp_ray.training.splits import load_splits


def main() -> None:
    """Run both for each seed and print how they compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="whose matrix is computed; default: a made-up table")
    parser.add_argument("--set", action="append", default=[], help="overrides of the configuration")
    parser.add_argument("--posts", type=int, default=3000, help="of the made-up table")
    parser.add_argument("--columns", type=int, default=40, help="of the made-up table")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ray", help=argparse.SUPPRESS)
    parser.add_argument("--optuna", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ray or given.optuna:
        result = with_ray(given) if given.ray else with_optuna(given)
        print(json.dumps(result))
        return
    ratios = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory(prefix="smp_ray_benchmark_") as folder:
            ours = _apart(["--ray", folder], seed)[0]
            began = time.time()
            theirs = _apart(["--optuna", folder], seed, ours["concurrency"])
            started = max(one["first"] for one in theirs) - began
            seconds = max(one["last"] for one in theirs) - min(one["first"] for one in theirs)
        ratios.append(seconds / ours["seconds"])
        print(
            f"seed {seed}, {ours['trials']} trials, {ours['concurrency']} side by side, best {ours['best']:.5f}: "
            f"Ray Tune {ours['seconds']:.1f} s (start-up {ours['startup']:.1f}), "
            f"Optuna {seconds:.1f} s (start-up {started:.1f}), ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(f"Ray Tune against Optuna: {statistics.mean(ratios):.2f} times as fast, mean of {len(ratios)} seeds")


def _apart(role: list[str], seed: int, processes: int = 1) -> list[dict[str, Any]]:
    """What processes of their own print in the end."""
    own = [*sys.argv[1:], "--seeds", str(seed), *role]
    # Threads that wait actively for each other stand still where other programs take their core.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    running = [
        subprocess.Popen([sys.executable, __file__, *own], stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(processes)
    ]
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        sys.exit(f"{role[0]} failed")
    return [dict(json.loads(text.splitlines()[-1])) for text in printed]


def _prepared(given: argparse.Namespace) -> tuple[Config, TuneConfig, list[FoldData]]:
    changes = {"cpus_per_trial": 1, "trials": given.trials, "seed": given.seeds[0]}
    if not given.config:
        config = build_config({"workspace": "unused", "source": {"kind": "demo"}}, given.set)
        return config, config.training.tune.model_copy(update=changes), made_up_folds(given.posts, given.columns)
    config = load_config(given.config, given.set)
    run = open_run(config, RaySession(config.ray))
    matrix, splits = run.artefact("matrix"), run.artefact("splits")
    if not isinstance(matrix, Manifest) or not isinstance(splits, Manifest):
        sys.exit("there is no matrix for this configuration; run smp-ray tune first")
    folds = load_folds(run.workspace, matrix, load_splits(run.workspace, splits))
    return config, config.training.tune.model_copy(update=changes), folds


def with_ray(given: argparse.Namespace) -> dict[str, Any]:
    """The project's own sweep; its records stay in the folder for the other contender."""
    import ray

    from smp_ray.training.boosting.registry import find
    from smp_ray.training.sweep.records import TrialRecord, clock
    from smp_ray.training.sweep.sweep import run_sweep, trials_at_once
    from smp_ray.training.sweep.trial import SweepTask

    began = time.time()
    config, settings, folds = _prepared(given)
    with ray_session(RayConfig()) as session:
        session.start()
        task = SweepTask(find(config.training.predictor), settings, ray.put(folds))
        started = time.time() - began
        concurrency, records = trials_at_once(settings, session.nodes()), dict[int, TrialRecord]()
        run_sweep(task, Workspace.open(given.ray), "", records, concurrency)
    best = min(record.objective for record in records.values() if record.objective is not None)
    first = min(record.started_after_seconds for record in records.values())
    return {
        "trials": len(records), "concurrency": concurrency, "seconds": clock(records) - first, "best": best,
        "startup": started + first,
    }  # fmt: skip


def with_optuna(given: argparse.Namespace) -> dict[str, Any]:
    """One of the processes of plain Optuna, which share their trials through a journal."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    from smp_ray.training.boosting.cross_fit import Lockstep, prepare_folds
    from smp_ray.training.boosting.registry import find
    from smp_ray.training.sweep.records import read_records

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config, settings, folds = _prepared(given)
    predictor, records = find(config.training.predictor), read_records(Workspace.open(given.optuna), "")
    first = last = time.time()
    shape = predictor.complete(settings.params, settings.objective, settings.seed, 1)
    prepared = prepare_folds(predictor, folds, shape)
    sampler = optuna.samplers.TPESampler(seed=settings.seed, multivariate=True, constant_liar=True)
    storage = JournalStorage(JournalFileBackend(str(Path(given.optuna, "journal"))))
    study = optuna.create_study(study_name="sweep", storage=storage, sampler=sampler, load_if_exists=True)
    space = {name: range_.distribution() for name, range_ in settings.space.items()}
    while True:
        trial = study.ask(space)  # the same work as for a trial of its own
        record = records.get(trial.number)
        if record is None:
            return {"first": first, "last": last}
        params = predictor.complete(
            {**settings.params, **record.params}, settings.objective, settings.seed, settings.cpus_per_trial
        )
        lockstep = Lockstep([predictor.begin(data, params) for data in prepared], folds, settings.objective)
        for _ in lockstep.run(record.rounds_trained, None):
            pass
        study.tell(trial, lockstep.best)
        last = time.time()


def made_up_folds(posts: int, columns: int, count: int = 5, seed: int = 0) -> list[FoldData]:
    """Folds of a table of numbers, a twentieth of them missing, whose label depends on a few, with heavy noise."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(posts, columns)).astype(np.float32)
    popularity = 6 + 2 * values[:, 0] + np.sin(3 * values[:, 1]) + values[:, 2] * values[:, 3]
    popularity = popularity.astype(np.float64) + rng.standard_t(3, size=posts)
    values[rng.random(values.shape) < 0.05] = np.nan
    fold_of = rng.permutation(posts) % count
    whole = Matrix(values, tuple(f"number_{place}" for place in range(columns)), (METADATA,) * columns, {})
    return [
        FoldData(
            fold, whole.rows(fold_of != fold), popularity[fold_of != fold], whole.rows(fold_of == fold),
            popularity[fold_of == fold], np.flatnonzero(fold_of == fold),
        )
        for fold in range(count)
    ]  # fmt: skip


if __name__ == "__main__":
    main()
