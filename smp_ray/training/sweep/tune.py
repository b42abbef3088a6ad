"""The tune stage: sweep, out-of-fold predictions of the best trials, and the final models.

The artefact holds `trials.parquet` (a row a trial), `out_of_fold.parquet` (`prediction`, chosen for each fold by the
others, and `flattered`, chosen by all), `model/` and `trials/` (see `records`), from which an interrupted sweep goes
on. The final models, `trials_used` in the details and `trials` of `columns.json`, are chosen by all folds. Models are
stored in the predictor's own text; LightGBM's is read without smp_ray:

    booster = lightgbm.Booster(model_file="model/model-0.txt")
    columns = json.load(open("model/columns.json"))["columns"]
    prediction = booster.predict(values)  # one column each, in this order; categories as the places of their levels

The prediction is the mean over `models`, where there are several.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from smp_ray.config import CPUS_PER_TRIAL, Choice, SearchRange
from smp_ray.errors import ConfigError, SmpRayError
from smp_ray.evaluation.metrics import METRICS
from smp_ray.progress import Reporter
from smp_ray.resources import described
from smp_ray.run import Run
from smp_ray.store.join import locate
from smp_ray.store.manifest import Made, Manifest
from smp_ray.store.parquet import write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.cross_fit import check_labels
from smp_ray.training.boosting.registry import find
from smp_ray.training.boosting.together import Together
from smp_ray.training.matrix.matrix import Matrix, load_final, load_folds
from smp_ray.training.out_of_fold import TUNED, write_out_of_fold
from smp_ray.training.splits import Splits, load_splits
from smp_ray.training.sweep.choice import Picked, averaged, by_all_folds, by_other_folds, flattered, refit
from smp_ray.training.sweep.records import TrialRecord, clock, read_records
from smp_ray.training.sweep.sweep import run_sweep, trials_at_once
from smp_ray.training.sweep.trial import SweepTask

#: The tuned model's name in metrics and tables, and that of what it would seem to be worth.
FLATTERED = "tuned_flattered"
_CAUTION = "its trials and rounds were chosen on the folds that it is judged on; for comparison with `tuned` alone"


def tune(run: Run, folder: str, matrix: Manifest, splits: Manifest) -> Made:
    """Search the predictor's parameters and fit the final models.

    Raises:
        ConfigError: the space holds what cannot be searched.
        DataError: the objective is undefined for a label.
        SmpRayError: all trials failed, or a trial does not fit the cluster.
    """
    settings, predictor = run.config.training.tune, find(run.config.training.predictor)
    predictor.check(settings.space, settings.params)
    workspace, folds = run.workspace, load_splits(run.workspace, splits)
    together = _together(run, folder, matrix, folds)
    check_labels([folds.popularity[folds.validation(fold)] for fold in range(folds.count)], settings.objective)
    run.session.cpus_of(settings.cpus_per_trial, CPUS_PER_TRIAL)  # refused where no node has so many
    concurrency, records = trials_at_once(settings, run.session.nodes()), read_records(workspace, folder)
    resumed = len(records)
    task = SweepTask(predictor, settings, ray.remote(num_cpus=0.5)(load_folds).remote(workspace, matrix, folds))
    run_sweep(task, workspace, folder, records, concurrency)
    chosen = by_all_folds(records, settings.models)
    if not chosen:
        workspace.delete_dir(folder, "trials")  # without their records, the next run tries them again
        raise SmpRayError(f"tune: all {len(records)} trials failed, the first with: {records[min(records)].error}")
    # Where several processes share it, nobody holds it whole; its columns are wanted in any case.
    final, row_ids = load_final(workspace, matrix, 0, len(folds.row_ids) if together else 1)
    popularity = folds.popularity[locate(row_ids, folds.row_ids)]
    nested = by_other_folds(records, settings.models, folds.count)
    predictions, texts = _refit(run, task, records, chosen, nested, together or (final, popularity), folds)
    fragments = [
        write_table(workspace, f"{folder}/trials.parquet", trials_table(records, settings.space, folds.count)),
        write_out_of_fold(workspace, folder, folds, predictions),
    ]
    counts: dict[str, int] = dict(Counter(record.status for record in records.values()))
    best = chosen[0]
    details = {
        "predictor": run.config.training.predictor,
        "objective": settings.objective,
        "best": {"trial": best.number, "value": best.objective, "rounds": best.rounds, "params": best.params},
        "trials_used": [record.number for record in chosen],
        "nested": [asdict(one) for one in nested],
        "trials_resumed": resumed,
        "concurrency": concurrency,
        "sweep_seconds": clock(records),
        "models": write_models(workspace, f"{folder}/model", final, settings.objective, chosen, texts),
        "variants": {TUNED: {"column": "prediction"}, FLATTERED: {"column": "flattered", "caution": _CAUTION}},
        "against_earlier": [TUNED],
        "pairs": [[TUNED, FLATTERED]],
    }
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    kept = f", {resumed} of them kept from an interrupted run" if resumed else ""
    note = (
        f"{len(records)} trials ({by_status}{kept}), "
        f"lowest {settings.objective.upper()} {best.objective:.4f} by trial {best.number} after {best.rounds} rounds"
    )
    return Made(rows=len(records), counts=counts, fragments=fragments, details=details, note=note)


def _refit(
    run: Run,
    task: SweepTask,
    records: Mapping[int, TrialRecord],
    chosen: Sequence[TrialRecord],
    nested: Sequence[Picked],
    final: tuple[Matrix, np.ndarray] | Together,
    splits: Splits,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Out-of-fold predictions by the name of their column, and the final models of the chosen trials as text."""
    all_folds, predictor = flattered(chosen, splits.count), task.predictor
    wanted = sorted({*all_folds, *nested})
    others = sorted({one.trial for one in wanted} - {record.number for record in chosen})
    shared: Any = None if isinstance(final, Together) else ray.put(final)
    tasks = [*((record, shared) for record in chosen), *((records[number], None) for number in others)]
    train = ray.remote(num_cpus=run.session.cpus_of(task.settings.cpus_per_trial, CPUS_PER_TRIAL))(refit)
    running = [train.remote(task, task.folds, record, wanted, own) for record, own in tasks]
    parts, texts = zip(*run.session.gather(running, Reporter("final models", "trials")), strict=True)
    found = {one: prediction for part in parts for one, prediction in part.items()}
    columns = {"prediction": averaged(nested, found, splits), "flattered": averaged(all_folds, found, splits)}
    if isinstance(final, Together):
        # In a task: Ray Train would replace this process's handler of Ctrl-C by one that ends with status 0.
        train_together = ray.remote(num_cpus=0)(Together.fit)
        fits = ((final, predictor, task.complete(record.params), record.rounds) for record in chosen)
        return columns, [str(ray.get(train_together.remote(*one))) for one in fits]
    return columns, list(texts[: len(chosen)])


def _together(run: Run, folder: str, matrix: Manifest, splits: Splits) -> Together | None:
    """Who trains the final models where several processes do; a ConfigError where they cannot."""
    settings, workers = run.config.training, run.config.training.boosting.workers
    if workers == 1:
        return None
    setting = f"training.boosting.workers is {workers}"
    if find(settings.predictor).together({}, {}) is None:
        raise ConfigError(f"{setting}, but the predictor {settings.predictor} trains in one process")
    cpus, nodes = run.session.cpus_of(settings.tune.cpus_per_trial, CPUS_PER_TRIAL), run.session.nodes()
    if (room := sum(int(node.cpus // cpus) for node in nodes)) < workers:
        raise ConfigError(f"{setting} with {cpus:g} CPUs each, but {room} fit into a cluster with {described(nodes)}")
    return Together(run.workspace, folder, matrix, splits, workers, cpus)


def write_models(
    workspace: Workspace,
    folder: str,
    matrix: Matrix,
    objective: str,
    chosen: Sequence[TrialRecord],
    texts: Sequence[str],
) -> list[str]:
    """Write `model-<i>.txt` and `columns.json` into a folder of the workspace; the models' paths in the workspace."""
    names = [f"model-{place}.txt" for place in range(len(texts))]
    for name, text in zip(names, texts, strict=True):
        workspace.write(text.encode(), folder, name)
    columns = [
        {"name": name, "family": family, "levels": matrix.levels.get(name)}
        for name, family in zip(matrix.names, matrix.families, strict=True)
    ]
    trials = [
        {"trial": record.number, "rounds": record.rounds, "params": record.params, "objective": record.objective}
        for record in chosen
    ]
    described = {"objective": objective, "columns": columns, "models": names, "trials": trials}
    workspace.write_json(described, folder, "columns.json")
    return [f"{folder}/{name}" for name in names]


def trials_table(records: Mapping[int, TrialRecord], space: Mapping[str, SearchRange], folds: int) -> pa.Table:
    """One row a trial, in order of their numbers.

    Columns: trial, status, `param_<name>` for each searched parameter, objective, rounds, mae, mape, src (of all
    out-of-fold predictions together; null where undefined or failed), `<metric>_fold_<k>`, `others_objective_<k>` and
    `others_rounds_<k>` (what the folds other than k choose by, see `records`), seconds, started_after_seconds, error.
    """
    schema = {"trial": pa.int32(), "status": pa.string()}
    for name, range_ in space.items():
        allowed = range_.values if isinstance(range_, Choice) else [range_.low]
        schema[f"param_{name}"] = pa.infer_type([_stored(value, range_) for value in allowed])
    schema |= {"objective": pa.float64(), "rounds": pa.int32()}
    scores = [*METRICS, *(f"{metric}_fold_{fold}" for metric in METRICS for fold in range(folds))]
    schema |= dict.fromkeys(scores, pa.float64())
    for fold in range(folds):
        schema |= {f"others_objective_{fold}": pa.float64(), f"others_rounds_{fold}": pa.int32()}
    schema |= dict.fromkeys(("seconds", "started_after_seconds"), pa.float64()) | {"error": pa.string()}
    lines = []
    for number, record in sorted(records.items()):
        line = {**asdict(record), **record.metrics, "trial": number, "rounds": record.rounds or None}
        line |= {f"param_{name}": _stored(record.params[name], range_) for name, range_ in space.items()}
        line |= {f"{metric}_fold_{fold['fold']}": fold[metric] for fold in record.folds for metric in METRICS}
        for fold, one in enumerate(record.nested):
            line |= {f"others_{name}_{fold}": value for name, value in one.items()}
        lines.append(line)
    return pa.Table.from_pylist(lines, pa.schema(schema))


def _stored(value: Any, range_: SearchRange) -> Any:
    """A value as the table holds it; choices of several kinds (0.5, "auto") have no common type but text."""
    mixed = isinstance(range_, Choice) and len({type(one) for one in range_.values}) > 1
    return json.dumps(value) if mixed else value
