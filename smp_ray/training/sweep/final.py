"""From the best trials to what is published: their out-of-fold predictions and final models, fitted again.

The models are stored in the predictor's own text, LightGBM's is read by plain LightGBM:

    booster = lightgbm.Booster(model_file="model/model-0.txt")
    columns = json.load(open("model/columns.json"))["columns"]
    prediction = booster.predict(values)  # one column each, in this order; categories as the places of their levels

The prediction is the mean over `models`, where there are several.
"""

from collections.abc import Sequence

import numpy as np
import ray

from smp_ray.progress import Reporter
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.cross_fit import cross_fit, fit
from smp_ray.training.matrix.matrix import FoldData, Matrix
from smp_ray.training.sweep.records import TrialRecord
from smp_ray.training.sweep.trial import SweepTask


def refit(
    task: SweepTask, chosen: Sequence[TrialRecord], matrix: Matrix, popularity: np.ndarray, posts: int, cpus: float
) -> tuple[np.ndarray, list[str]]:
    """Train the chosen trials again, with the same result on the folds, and on all training posts.

    Args:
        task: the sweep's.
        chosen: records, each of which becomes a Ray task.
        matrix: all training posts.
        popularity: their labels, float64 (training posts,).
        posts: number of posts in `Splits`.
        cpus: what a task asks Ray for.

    Returns:
        Mean of the out-of-fold predictions, float64 (posts of `Splits`,), and each trial's final model as text.
    """
    train, shared, labels = ray.remote(num_cpus=cpus)(_refit), ray.put(matrix), ray.put(popularity)
    running = [train.remote(task, task.folds, record, shared, labels, posts) for record in chosen]
    waiting = running
    with Reporter("final models", "models") as reporter:
        while waiting:
            _, waiting = ray.wait(waiting)
            reporter.update(len(chosen) - len(waiting), len(chosen))
    predictions, texts = zip(*ray.get(running), strict=True)
    return np.mean(predictions, axis=0), list(texts)


def _refit(
    task: SweepTask, folds: list[FoldData], record: TrialRecord, matrix: Matrix, popularity: np.ndarray, posts: int
) -> tuple[np.ndarray, str]:
    params = {**task.settings.params, **record.params}
    crossed = cross_fit(task.predictor, folds, params, task.settings, record.rounds)
    final = fit(task.predictor, matrix, popularity, task.complete(record.params), record.rounds)
    return crossed.out_of_fold(posts), final.text()


def write_models(
    workspace: Workspace, folder: str, matrix: Matrix, objective: str, chosen: Sequence[TrialRecord], texts: list[str]
) -> list[str]:
    """Write `model-<i>.txt` and `columns.json` into a folder of the workspace; the models' paths in the workspace."""
    names = [f"model-{place}.txt" for place in range(len(texts))]
    for name, text in zip(names, texts, strict=True):
        workspace.write(text.encode(), folder, name)
    columns = [
        {"name": name, "family": family, "levels": list(matrix.levels[name]) if name in matrix.categorical else None}
        for name, family in zip(matrix.names, matrix.families, strict=True)
    ]
    trials = [
        {"trial": record.number, "rounds": record.rounds, "params": record.params, "objective": record.objective}
        for record in chosen
    ]
    described = {"objective": objective, "columns": columns, "models": names, "trials": trials}
    workspace.write_json(described, folder, "columns.json")
    return [f"{folder}/{name}" for name in names]
