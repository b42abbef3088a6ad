"""The ablation: which group of columns is worth what, on the same folds and with the same budget.

Every variant tries the same candidate settings (the predictor's own first, then draws from the sweep's space by seed);
for each fold the one that is best on the other folds represents it, for as many rounds as are best there. Variants:
metadata alone, metadata with each group, all, and all without each group.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import ray

from smp_ray.config import ADAPTED, CPUS_PER_TRIAL, METADATA, Config, TuneConfig, embeddings
from smp_ray.families.registry import columns_of
from smp_ray.progress import Reporter
from smp_ray.run import Run
from smp_ray.store.manifest import Made, Manifest
from smp_ray.training.boosting.cross_fit import cross_fit
from smp_ray.training.boosting.registry import find
from smp_ray.training.matrix.matrix import FoldData, load_folds
from smp_ray.training.out_of_fold import write_out_of_fold
from smp_ray.training.splits import load_splits

ALL = "all"


def variants(groups: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Groups of each variant by its name, in the order of the table."""
    base = (METADATA,) if METADATA in groups else ()
    others = [group for group in groups if group not in base]
    found: dict[str, tuple[str, ...]] = {METADATA: base} if base else {}
    for group in others:
        found[f"{METADATA} + {group}" if base else group] = (*base, group)
    found[ALL] = groups
    if len(others) > 1:
        for group in others:
            found[f"{ALL} - {group}"] = tuple(kept for kept in groups if kept != group)
    return found


def comparisons(names: Sequence[str], raw: str | None) -> list[tuple[str, str]]:
    """Which variants are set against which: each addition against metadata, `all` against each removal.

    The adapted embeddings are also set against `raw`, the group of those that they are made of.
    """
    pairs = [(name, METADATA) for name in names if name.startswith(f"{METADATA} + ") and METADATA in names]
    adapted, unadapted = f"{METADATA} + {ADAPTED}", f"{METADATA} + {raw}"
    pairs += [(adapted, unadapted)] if {adapted, unadapted} <= set(names) else []
    pairs += [(ALL, METADATA)] if METADATA in names and ALL in names else []
    return pairs + [(ALL, name) for name in names if name.startswith(f"{ALL} - ")]


def candidates(sweep: TuneConfig, count: int) -> list[dict[str, Any]]:
    """The predictor's own settings and then draws from the search space, the same for the same seed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=sweep.seed))
    space = {name: range_.distribution() for name, range_ in sweep.space.items()}
    tried = [{}, *(study.ask(space).params for _ in range(count - 1))]
    return [{**sweep.params, **one} for number, one in enumerate(tried) if one not in tried[:number]]


def ablate(run: Run, folder: str, matrix: Manifest, splits: Manifest) -> Made:
    """Judge every variant and store its out-of-fold predictions, `out_of_fold.parquet` with one column a variant."""
    workspace, config, folds = run.workspace, run.config, load_splits(run.workspace, splits)
    there = set(matrix.details["columns"].values())  # a group may have come to nothing
    wanted = variants(tuple(group for group in matrix.details["families"] if group in there))
    shared = ray.remote(num_cpus=0.5)(load_folds).remote(workspace, matrix, folds)
    cpus = run.session.cpus_of(config.training.tune.cpus_per_trial, CPUS_PER_TRIAL)
    task = ray.remote(num_cpus=cpus)(_variant)
    # Those of most columns first, so that no core is left with a long one at the end.
    ordered = sorted(wanted, key=lambda name: -len(wanted[name]))
    running = [task.remote(shared, wanted[name], config, len(folds.row_ids)) for name in ordered]
    results = dict(zip(ordered, run.session.gather(running, Reporter("ablate", "variants")), strict=True))
    found = {name: results[name] for name in wanted}
    predictions = {name: values for name, (values, _) in found.items()}
    facts = {name: {"column": name, "families": list(wanted[name]), **own} for name, (_, own) in found.items()}
    embedder = embeddings(config)
    raw = columns_of([embedder[0]])[embedder[1][0]].group if embedder else None
    return Made(
        rows=len(folds.row_ids),
        fragments=[write_out_of_fold(workspace, folder, folds, predictions)],
        details={"variants": facts, "pairs": comparisons(list(facts), raw), "table": "ablation"},
        note=f"{len(facts)} variants",
    )


def _variant(
    folds: list[FoldData], families: tuple[str, ...], config: Config, posts: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Prediction and facts, some of them a list by fold, of some groups' columns. Runs as a Ray task."""
    sweep, predictor, began = config.training.tune, find(config.training.predictor), time.monotonic()
    own = [
        replace(fold, training=fold.training.only(families), validation=fold.validation.only(families))
        for fold in folds
    ]
    tried = [
        (cross_fit(predictor, own, params, sweep).nested, params)
        for params in candidates(sweep, config.training.ablation.candidates)
    ]
    prediction, chosen = np.full(posts, np.nan), []
    for place, fold in enumerate(own):
        best, params = min(((nested[place], params) for nested, params in tried), key=lambda one: one[0].objective)
        prediction[fold.validation_positions] = best.prediction
        chosen.append((params, best.rounds))
    every_params, rounds = zip(*chosen, strict=True)
    seconds = round(time.monotonic() - began, 3)
    return prediction, {"params": list(every_params), "rounds": list(rounds), "seconds": seconds}
