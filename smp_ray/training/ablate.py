"""The ablation: which group of columns is worth what, on the same folds and with the same budget.

Every variant tries the same candidate settings (LightGBM's own first, then draws from the sweep's space by seed) and
is represented by its best. Variants: metadata alone, metadata with each group, all, and all without each group.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.config import (
    ADAPTED,
    METADATA,
    Choice,
    Config,
    FloatRange,
    IntRange,
    SearchRange,
    TuneConfig,
    embeddings,
)
from smp_ray.families.registry import columns_of
from smp_ray.progress import Reporter
from smp_ray.run import Run
from smp_ray.store.manifest import Made, Manifest
from smp_ray.store.parquet import read_table, write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.matrix.matrix import FoldData, load_folds
from smp_ray.training.out_of_fold import write_out_of_fold
from smp_ray.training.splits import Splits, load_splits

ALL = "all"
_VARIANTS = "variants"


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

    Args:
        names: of the variants.
        raw: the group of the embeddings that the adapted ones are made of: these two are compared as well.
    """
    pairs = [(name, METADATA) for name in names if name.startswith(f"{METADATA} + ") and METADATA in names]
    adapted, unadapted = f"{METADATA} + {ADAPTED}", f"{METADATA} + {raw}"
    pairs += [(adapted, unadapted)] if {adapted, unadapted} <= set(names) else []
    pairs += [(ALL, METADATA)] if METADATA in names and ALL in names else []
    return pairs + [(ALL, name) for name in names if name.startswith(f"{ALL} - ")]


def candidates(sweep: TuneConfig, count: int) -> list[dict[str, Any]]:
    """LightGBM's own settings and then draws from the search space, the same for the same seed."""
    rng = np.random.default_rng(sweep.seed)
    drawn = [{name: _draw(range_, rng) for name, range_ in sweep.space.items()} for _ in range(count - 1)]
    return [{**sweep.params}, *({**sweep.params, **one} for one in drawn)]


def _draw(range_: SearchRange, rng: np.random.Generator) -> Any:
    if isinstance(range_, Choice):
        return range_.values[int(rng.integers(len(range_.values)))]
    if isinstance(range_, FloatRange):
        if range_.log:
            return float(np.exp(rng.uniform(np.log(range_.low), np.log(range_.high))))
        return float(rng.uniform(range_.low, range_.high))
    assert isinstance(range_, IntRange)
    if range_.log:
        return int(np.floor(np.exp(rng.uniform(np.log(range_.low), np.log(range_.high + 1)))))
    return int(rng.integers(range_.low, range_.high + 1))


def ablate(run: Run, folder: str, matrix: Manifest, splits: Manifest) -> Made:
    """Judge every variant and store its out-of-fold predictions; goes on where an interrupted run stopped.

    Files: `out_of_fold.parquet` (one column a variant) and, until the end, one file a finished variant.
    """
    folds = load_splits(run.workspace, splits)
    wanted = variants(tuple(matrix.details["families"]))
    results = _results(run, folder, matrix, folds, wanted)
    facts = {
        name: {"column": name, "families": list(wanted[name]), **result["facts"]} for name, result in results.items()
    }
    predictions = {name: result["prediction"] for name, result in results.items()}
    fragment = write_out_of_fold(run.workspace, folder, folds, predictions)
    run.workspace.delete_dir(folder, _VARIANTS)
    return Made(
        rows=len(folds.row_ids),
        fragments=[fragment],
        details={"variants": facts, "pairs": comparisons(list(facts), _raw_group(run.config)), "table": "ablation"},
        note=f"{len(facts)} variants",
    )


def _raw_group(config: Config) -> str | None:
    """The group of the embeddings that the adapted ones are made of."""
    embedder = embeddings(config)
    return None if embedder is None else columns_of([embedder[0]])[embedder[1][0]].group


def _results(
    run: Run, folder: str, matrix: Manifest, splits: Splits, wanted: Mapping[str, tuple[str, ...]]
) -> dict[str, dict[str, Any]]:
    """Prediction and facts of each variant, those of an interrupted run as it left them."""
    import ray

    workspace, config = run.workspace, run.config
    paths = {name: f"{folder}/{_VARIANTS}/{place}" for place, name in enumerate(wanted)}
    results = {name: _finished(workspace, path) for name, path in paths.items()}
    shared = ray.remote(num_cpus=0.5)(load_folds).remote(workspace, matrix, splits)
    task = ray.remote(num_cpus=run.session.cpus_of(config.training.tune.cpus_per_trial))(_variant)
    # Those of most columns first, so that no core is left with a long one at the end.
    lacking = sorted((name for name, found in results.items() if found is None), key=lambda name: -len(wanted[name]))
    running = {
        task.remote(shared, wanted[name], config, workspace, paths[name], len(splits.row_ids)): name for name in lacking
    }
    with Reporter("ablate", "variants") as reporter:
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            results[running.pop(ready)] = ray.get(ready)
            reporter.update(len(wanted) - len(running), len(wanted))
    return {name: result for name, result in results.items() if result is not None}


def _variant(
    folds: list[FoldData], families: tuple[str, ...], config: Config, workspace: Workspace, path: str, posts: int
) -> dict[str, Any]:
    """Try all candidates on some groups' columns, store and return the best. Runs as a Ray task."""
    from smp_ray.training.boosting.booster import out_of_fold

    sweep = config.training.tune
    own = [
        FoldData(
            fold.fold, fold.training.only(families), fold.training_popularity, fold.validation.only(families),
            fold.validation_popularity, fold.validation_positions,
        )
        for fold in folds
    ]  # fmt: skip
    began = time.monotonic()
    best: Any = None
    for params in candidates(sweep, config.training.ablation.candidates):
        result = out_of_fold(
            own,
            params,
            objective=sweep.objective,
            max_rounds=sweep.max_rounds,
            early_stopping_rounds=sweep.early_stopping_rounds,
            posts=posts,
            max_bin=config.training.matrix.max_bin,
            threads=sweep.cpus_per_trial,
            seed=sweep.seed,
        )
        if best is None or result.objective < best[0].objective:
            best = (result, params)
    result, params = best
    facts = {"params": params, "rounds": result.rounds, "seconds": round(time.monotonic() - began, 3)}
    write_table(workspace, f"{path}.parquet", pa.table({"prediction": result.prediction}))
    workspace.write_json(facts, f"{path}.json")  # last: it says that the other is whole
    return {"facts": facts, "prediction": result.prediction}


def _finished(workspace: Workspace, path: str) -> dict[str, Any] | None:
    facts = workspace.read_json(f"{path}.json")
    if facts is None:
        return None
    return {"facts": facts, "prediction": read_table(workspace, f"{path}.parquet")["prediction"].to_numpy()}
