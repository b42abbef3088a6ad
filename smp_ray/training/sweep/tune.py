"""The tune stage: sweep, out-of-fold predictions of the best trials, and the final models.

The artefact holds `trials.parquet` (a row a trial), `out_of_fold.parquet`, `model/` (see `final`) and `trials/` (see
`records`), from which an interrupted sweep goes on.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray

from smp_ray.config import Choice, FloatRange, SearchRange
from smp_ray.errors import SmpRayError
from smp_ray.evaluation.metrics import METRICS
from smp_ray.run import Run
from smp_ray.store.join import locate
from smp_ray.store.manifest import Made, Manifest
from smp_ray.store.parquet import write_table
from smp_ray.training.boosting.cross_fit import check_labels
from smp_ray.training.boosting.registry import find
from smp_ray.training.matrix.matrix import load_final, load_folds
from smp_ray.training.out_of_fold import write_out_of_fold
from smp_ray.training.splits import load_splits
from smp_ray.training.sweep.final import refit, write_models
from smp_ray.training.sweep.records import TrialRecord
from smp_ray.training.sweep.sweep import Sweep, run_sweep
from smp_ray.training.sweep.trial import SweepTask

#: The tuned model's name in metrics and tables.
TUNED = "tuned"


def tune(run: Run, folder: str, matrix: Manifest, splits: Manifest) -> Made:
    """Search the predictor's parameters and fit the final models.

    Raises:
        ConfigError: the space holds what cannot be searched.
        DataError: the objective is undefined for a label.
        SmpRayError: all trials failed, or a trial does not fit the cluster.
    """
    settings, predictor = run.config.training.tune, find(run.config.training.predictor)
    predictor.check(settings.space)
    workspace, folds = run.workspace, load_splits(run.workspace, splits)
    check_labels([folds.popularity[folds.validation(fold)] for fold in range(folds.count)], settings.objective)
    task = SweepTask(predictor, settings, ray.remote(num_cpus=0.5)(load_folds).remote(workspace, matrix, folds))
    sweep = run_sweep(task, workspace, folder, run.session.cores)
    ranked = sorted((r.objective, r.number) for r in sweep.records.values() if r.objective is not None)
    if not ranked:
        workspace.delete_dir(folder, "trials")  # without their records, the next run tries them again
        first = sweep.records[min(sweep.records)]
        raise SmpRayError(f"tune: all {len(sweep.records)} trials failed, the first with: {first.error}")
    chosen = [sweep.records[number] for _, number in ranked[: settings.models]]
    every, row_ids, training = load_final(workspace, matrix)
    final, popularity = every.rows(training), folds.popularity[locate(row_ids[training], folds.row_ids)]
    cpus = run.session.cpus_of(settings.cpus_per_trial)
    prediction, texts = refit(task, chosen, final, popularity, len(folds.row_ids), cpus)
    counts: dict[str, int] = dict(Counter(record.status for record in sweep.records.values()))
    best = chosen[0]
    details = {
        "predictor": run.config.training.predictor,
        "objective": settings.objective,
        "best": {"trial": best.number, "value": best.objective, "rounds": best.rounds, "params": best.params},
        "trials_used": [record.number for record in chosen],
        "trials_by_status": counts,
        "trials_resumed": sweep.resumed,
        "concurrency": sweep.concurrency,
        "startup_seconds": sweep.startup_seconds,
        "sweep_seconds": sweep.seconds,
        "models": write_models(workspace, f"{folder}/model", final, settings.objective, chosen, texts),
        "columns": f"{folder}/model/columns.json",
        "variants": {TUNED: {"column": "prediction"}},
        "against_earlier": True,
    }
    trials = trials_table(sweep.records, settings.space, folds.count)
    fragments = [
        write_table(workspace, f"{folder}/trials.parquet", trials),
        write_out_of_fold(workspace, folder, folds, {"prediction": prediction}),
    ]
    note = _summary(sweep, counts, best, settings.objective)
    return Made(rows=len(sweep.records), counts=counts, fragments=fragments, details=details, note=note)


def _summary(sweep: Sweep, counts: Mapping[str, int], best: TrialRecord, objective: str) -> str:
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    kept = f", {sweep.resumed} of them kept from an interrupted run" if sweep.resumed else ""
    return (
        f"{len(sweep.records)} trials ({by_status}{kept}), "
        f"best {objective.upper()} {best.objective:.4f} by trial {best.number} after {best.rounds} rounds"
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
