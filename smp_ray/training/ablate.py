"""The ablation: which family of columns is worth what, on the same folds and with the same budget.

Every variant tries the same candidate settings (LightGBM's own first, then draws from the sweep's space by seed) and
is represented by its best. Variants: metadata alone, metadata with each family, all, and all without each family.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.config import Choice, Config, FloatRange, IntRange, MatrixFamily, SearchRange, TuneConfig
from smp_ray.progress import Reporter
from smp_ray.ray_session import RaySession
from smp_ray.training.evaluate import write_out_of_fold
from smp_ray.training.matrix import FoldData, load_fold
from smp_ray.training.splits import Splits
from smp_ray.workspace import Manifest, Workspace

STAGE = "ablate"
ALL = "all"


def variants(families: tuple[MatrixFamily, ...]) -> dict[str, tuple[MatrixFamily, ...]]:
    """Families of each variant by its name, in the order of the table."""
    base: tuple[MatrixFamily, ...] = ("metadata",) if "metadata" in families else ()
    others = [family for family in families if family not in base]
    found: dict[str, tuple[MatrixFamily, ...]] = {"metadata": base} if base else {}
    for family in others:
        found[f"metadata + {family}" if base else family] = (*base, family)
    found[ALL] = families
    if len(others) > 1:
        for family in others:
            found[f"all - {family}"] = tuple(kept for kept in families if kept != family)
    return found


def comparisons(names: Sequence[str]) -> list[tuple[str, str]]:
    """Which variants are set against which: each addition against metadata, `all` against each removal."""
    pairs = [(name, "metadata") for name in names if name.startswith("metadata + ") and "metadata" in names]
    if {"metadata + adapted", "metadata + clip"} <= set(names):
        pairs.append(("metadata + adapted", "metadata + clip"))
    pairs += [(ALL, "metadata")] if "metadata" in names and ALL in names else []
    return pairs + [(ALL, name) for name in names if name.startswith("all - ")]


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


def ablate(
    config: Config, workspace: Workspace, splits: Splits, matrix: Manifest, session: RaySession, key: str
) -> Manifest:
    """Judge every variant and store its out-of-fold predictions; goes on where an interrupted run stopped.

    Files: `out_of_fold.parquet` (one column a variant) and, until the commit, one file a finished variant.
    """
    if (done := workspace.manifest(STAGE, key)) is not None:
        return done
    began = time.monotonic()
    wanted = variants(tuple(matrix.details["families"]))
    finished = {name: _finished(workspace, key, place) for place, name in enumerate(wanted)}
    missing = [name for name, result in finished.items() if result is None]
    if missing:
        session.start()
        import ray

        workspace.make_dir(STAGE, key, "variants")
        shared = ray.remote(num_cpus=0.5)(_load_folds).remote(workspace, matrix, splits)
        task = ray.remote(num_cpus=session.cpus_of(config.training.tune.cpus_per_trial))(_variant)
        places = {name: place for place, name in enumerate(wanted)}
        running = {
            task.remote(shared, wanted[name], config, workspace, key, places[name], len(splits.row_ids)): name
            for name in missing
        }
        with Reporter("ablate", "variants") as reporter:
            while running:
                (ready,), _ = ray.wait(list(running), num_returns=1)
                finished[running.pop(ready)] = ray.get(ready)
                reporter.update(len(wanted) - len(running), len(wanted))
    results = {name: result for name, result in finished.items() if result is not None}
    predictions = {name: result["prediction"] for name, result in results.items()}
    fragment = write_out_of_fold(workspace, f"{STAGE}/{key}/out_of_fold.parquet", splits, predictions)
    chosen = {
        name: {"families": list(wanted[name]), **{part: result[part] for part in ("params", "rounds", "seconds")}}
        for name, result in results.items()
    }
    manifest = workspace.commit(
        Manifest(
            stage=STAGE, fingerprint=key, config=config.training.ablation.model_dump(mode="json"),
            inputs={"matrix": matrix.fingerprint}, rows=len(splits.row_ids),
            wall_seconds=round(time.monotonic() - began, 3), fragments=[fragment], details={"variants": chosen},
        )
    )  # fmt: skip
    workspace.delete_dir(STAGE, key, "variants")
    return manifest


def _load_folds(workspace: Workspace, matrix: Manifest, splits: Splits) -> list[FoldData]:
    return [load_fold(workspace, matrix, splits, fold) for fold in range(splits.count)]


def _variant(
    folds: list[FoldData],
    families: tuple[MatrixFamily, ...],
    config: Config,
    workspace: Workspace,
    key: str,
    place: int,
    posts: int,
) -> dict[str, Any]:
    """Try all candidates on some families' columns, store and return the best. Runs as a Ray task."""
    from smp_ray.training.booster import out_of_fold

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
    found = {"params": params, "rounds": result.rounds, "seconds": round(time.monotonic() - began, 3)}
    path = workspace.path(STAGE, key, "variants", f"{place}.parquet")
    pq.write_table(pa.table({"prediction": result.prediction}), path, filesystem=workspace.filesystem)
    workspace.write_json(found, STAGE, key, "variants", f"{place}.json")  # last: it says that the other is whole
    return {**found, "prediction": result.prediction}


def _finished(workspace: Workspace, key: str, place: int) -> dict[str, Any] | None:
    found = workspace.read_json(STAGE, key, "variants", f"{place}.json")
    if found is None:
        return None
    path = workspace.path(STAGE, key, "variants", f"{place}.parquet")
    prediction = pq.read_table(path, filesystem=workspace.filesystem)["prediction"].to_numpy()
    return {**found, "prediction": prediction}
