"""The tune stage: sweep, out-of-fold predictions of the best trials, and the final model.

`tune/<fingerprint>/`: `trials.parquet` (a row a trial), `out_of_fold.parquet`, `model/` (see `model_files`), `trials/`
(see `trial_files`) and `sweep/` (Ray Tune's own notes). A sweep that was interrupted goes on from `trials/`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.config import Choice, Config, FloatRange, SearchRange, TuneConfig
from smp_ray.errors import SmpRayError
from smp_ray.progress import say
from smp_ray.ray_session import RaySession
from smp_ray.training.evaluate import write_out_of_fold
from smp_ray.training.lightgbm_params import check_space
from smp_ray.training.matrix import FoldData, Matrix
from smp_ray.training.metrics import METRICS
from smp_ray.training.model_files import fit_models, write_models
from smp_ray.training.splits import Splits
from smp_ray.training.sweep import Sweep, run_sweep
from smp_ray.training.trial_files import TrialFiles, TrialRecord
from smp_ray.workspace import Fragment, Manifest, Workspace

STAGE = "tune"


def tune(
    config: Config,
    workspace: Workspace,
    splits: Splits,
    folds: Callable[[], list[FoldData]],
    final: Callable[[], tuple[Matrix, np.ndarray]],
    session: RaySession,
    key: str,
) -> Manifest:
    """Search LightGBM's parameters and store the final model under the fingerprint `key`; a no-op where that was done.

    Args:
        config: the resolved configuration.
        workspace: where the artefact goes.
        splits: the labelled posts and their folds.
        folds: loads the folds' matrices; called only if a trial is to be run.
        final: loads matrix and popularity, float64 (posts,), of all training posts; called only if there is no model.
        session: Ray, started here only if there is something to compute.
        key: the artefact's fingerprint.

    Raises:
        ConfigError: the space holds what cannot be searched.
        DataError: the objective is undefined for a label.
        SmpRayError: all trials failed, a trial does not fit the cluster, or the sweep was interrupted.
    """
    if (done := workspace.manifest(STAGE, key)) is not None:
        return done
    settings, max_bin = config.training.tune, config.training.matrix.max_bin
    check_space(settings)
    began = time.monotonic()
    folder = f"{STAGE}/{key}"
    sweep = run_sweep(settings, max_bin, workspace, folder, len(splits.row_ids), folds, session)
    ranked = _ranked(sweep.records, workspace, folder)
    chosen, best = ranked[: settings.models], ranked[0]
    counts: dict[str, int] = dict(Counter(record.status for record in sweep.records.values()))
    say(_summary(settings, sweep, counts, best))
    matrix, popularity = final()
    models = fit_models(matrix, popularity, settings, max_bin, chosen, sweep.concurrency)
    paths = write_models(workspace, f"{folder}/model", matrix, settings, chosen, models)
    files = TrialFiles(workspace, f"{folder}/trials")
    prediction = np.mean([files.predictions(record.number) for record in chosen], axis=0)
    fragments = [
        _write_trials(workspace, f"{folder}/trials.parquet", trials_table(sweep.records, settings.space, splits.count)),
        write_out_of_fold(workspace, f"{folder}/out_of_fold.parquet", splits, {"prediction": prediction}),
    ]
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
    }
    return workspace.commit(
        Manifest(
            stage=STAGE, fingerprint=key, config={"max_bin": max_bin, **settings.model_dump(mode="json")},
            inputs={"splits": splits.fingerprint}, rows=len(sweep.records), counts=counts,
            wall_seconds=round(time.monotonic() - began, 3), fragments=fragments, details=details,
        )
    )  # fmt: skip


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
        f"tune: {len(sweep.records)} trials ({by_status}{kept}) in {sweep.seconds:.1f} s, "
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


def _write_trials(workspace: Workspace, path: str, table: pa.Table) -> Fragment:
    pq.write_table(table, workspace.path(path), filesystem=workspace.filesystem, compression="zstd")
    return Fragment(path, table.num_rows, workspace.filesystem.get_file_info(workspace.path(path)).size)
