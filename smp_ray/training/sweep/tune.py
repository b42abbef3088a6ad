"""The tune stage: sweep, out-of-fold predictions of the best trials, and the final model.

The artefact holds `trials.parquet` (a row a trial), `out_of_fold.parquet`, `model/` (see `model_files`), `trials/` (see
`trial_files`) and `sweep/` (Ray Tune's own notes). A sweep that was interrupted goes on from `trials/`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.config import Choice, FloatRange, SearchRange, TuneConfig
from smp_ray.errors import SmpRayError
from smp_ray.evaluation.metrics import METRICS
from smp_ray.run import Run
from smp_ray.store.join import locate
from smp_ray.store.manifest import Made, Manifest
from smp_ray.store.parquet import write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.lightgbm_params import check_space
from smp_ray.training.boosting.model_files import fit_models, write_models
from smp_ray.training.matrix.matrix import Matrix, load_final, load_folds
from smp_ray.training.out_of_fold import write_out_of_fold
from smp_ray.training.splits import Splits, load_splits
from smp_ray.training.sweep.sweep import Sweep, run_sweep
from smp_ray.training.sweep.trial_files import TrialFiles, TrialRecord

#: The tuned model's name in metrics and tables.
TUNED = "tuned"


def tune(run: Run, folder: str, matrix: Manifest, splits: Manifest) -> Made:
    """Search LightGBM's parameters and fit the final model.

    Raises:
        ConfigError: the space holds what cannot be searched.
        DataError: the objective is undefined for a label.
        SmpRayError: all trials failed, a trial does not fit the cluster, or the sweep was interrupted.
    """
    settings, max_bin = run.config.training.tune, run.config.training.matrix.max_bin
    check_space(settings)
    workspace, folds = run.workspace, load_splits(run.workspace, splits)
    sweep = run_sweep(
        settings, max_bin, workspace, folder, len(folds.row_ids),
        lambda: load_folds(workspace, matrix, folds), run.session.cores,
    )  # fmt: skip
    ranked = _ranked(sweep.records, workspace, folder)
    chosen, best = ranked[: settings.models], ranked[0]
    final, popularity = _labelled(workspace, matrix, folds)
    models = fit_models(final, popularity, settings, max_bin, chosen, sweep.concurrency)
    paths = write_models(workspace, f"{folder}/model", final, settings, chosen, models)
    files = TrialFiles(workspace, f"{folder}/trials")
    prediction = np.mean([files.predictions(record.number) for record in chosen], axis=0)
    trials = trials_table(sweep.records, settings.space, folds.count)
    counts: dict[str, int] = dict(Counter(record.status for record in sweep.records.values()))
    details = {
        "objective": settings.objective,
        "best": {"trial": best.number, "value": best.objective, "rounds": best.rounds, "params": best.params},
        "trials_used": [record.number for record in chosen],
        "trials_by_status": counts,
        "trials_resumed": sweep.resumed,
        "concurrency": sweep.concurrency,
        "slots": sweep.slots,
        "startup_seconds": sweep.startup_seconds,
        "sweep_seconds": sweep.seconds,
        "models": paths,
        "columns": f"{folder}/model/columns.json",
        "variants": {TUNED: {"column": "prediction"}},
        "against_earlier": True,
    }
    return Made(
        rows=len(sweep.records),
        counts=counts,
        fragments=[
            write_table(workspace, f"{folder}/trials.parquet", trials),
            write_out_of_fold(workspace, folder, folds, {"prediction": prediction}),
        ],
        details=details,
        note=_summary(settings, sweep, counts, best),
    )


def _labelled(workspace: Workspace, matrix: Manifest, splits: Splits) -> tuple[Matrix, np.ndarray]:
    """Matrix and popularity, float64 (posts,), of all training posts."""
    every, row_ids, training = load_final(workspace, matrix)
    return every.rows(training), splits.popularity[locate(row_ids[training], splits.row_ids)]


def _ranked(records: Mapping[int, TrialRecord], workspace: Workspace, folder: str) -> list[TrialRecord]:
    """Trials that have a result, the best first; of equal ones the earlier."""
    found = [(record.objective, number) for number, record in records.items() if record.objective is not None]
    if found:
        return [records[number] for _, number in sorted(found)]
    # Without their records, the next run tries them again.
    workspace.delete_dir(folder, "trials")
    first = records[min(records)]
    raise SmpRayError(f"tune: all {len(records)} trials failed, the first with: {first.error}")


def _summary(settings: TuneConfig, sweep: Sweep, counts: Mapping[str, int], best: TrialRecord) -> str:
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    kept = f", {sweep.resumed} of them kept from an interrupted run" if sweep.resumed else ""
    return (
        f"{len(sweep.records)} trials ({by_status}{kept}), "
        f"best {settings.objective.upper()} {best.objective:.4f} by trial {best.number} after {best.rounds} rounds"
    )


def trials_table(records: Mapping[int, TrialRecord], space: Mapping[str, SearchRange], folds: int) -> pa.Table:
    """One row a trial, in order of their numbers.

    Columns: trial, status, `param_<name>` for each searched parameter, objective, rounds, mae, mape, src (of all
    out-of-fold predictions together; null where undefined or failed), `<metric>_fold_<k>`, seconds,
    started_after_seconds, error.
    """
    ordered = [records[number] for number in sorted(records)]
    columns: dict[str, pa.Array] = {
        "trial": pa.array([record.number for record in ordered], pa.int32()),
        "status": pa.array([record.status for record in ordered], pa.string()),
    }
    for name, range_ in space.items():
        columns[f"param_{name}"] = _param_column([record.params[name] for record in ordered], range_)
    columns["objective"] = pa.array([record.objective for record in ordered], pa.float64())
    rounds = [None if record.objective is None else record.rounds for record in ordered]
    columns["rounds"] = pa.array(rounds, pa.int32())
    for metric in METRICS:
        columns[metric] = pa.array([record.metrics.get(metric) for record in ordered], pa.float64())
    for metric in METRICS:
        for fold in range(folds):
            values = [next((one[metric] for one in record.folds if one["fold"] == fold), None) for record in ordered]
            columns[f"{metric}_fold_{fold}"] = pa.array(values, pa.float64())
    columns["seconds"] = pa.array([record.seconds for record in ordered], pa.float64())
    columns["started_after_seconds"] = pa.array([record.started_after_seconds for record in ordered], pa.float64())
    columns["error"] = pa.array([record.error for record in ordered], pa.string())
    return pa.table(columns)


def _param_column(values: Sequence[Any], range_: SearchRange) -> pa.Array:
    if isinstance(range_, FloatRange):
        return pa.array(values, pa.float64())
    if not isinstance(range_, Choice):
        return pa.array(values, pa.int64())
    kinds = {type(value) for value in range_.values}
    # Choices of several kinds (0.5, "auto") have no common type but text.
    return pa.array(values) if len(kinds) == 1 else pa.array([json.dumps(value) for value in values], pa.string())
