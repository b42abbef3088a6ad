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
    """Train the chosen trials again, on the folds and on all training posts, in Ray tasks side by side.

    Args:
        task: the sweep's.
        chosen: records, whose parameters and rounds give the same predictions as in the sweep.
        matrix: all training posts.
        popularity: their labels, float64 (posts,).
        posts: number of posts in `Splits`.
        cpus: what a task asks Ray for.

    Returns:
        Mean of the out-of-fold predictions, float64 (posts of `Splits`,), and each trial's final model as text.
    """
    shared, labels = ray.put(matrix), ray.put(popularity)
    crossed = [ray.remote(num_cpus=cpus)(_crossed).remote(task, task.folds, record, posts) for record in chosen]
    texts = [ray.remote(num_cpus=cpus)(_final).remote(task, record, shared, labels) for record in chosen]
    waiting = [*crossed, *texts]
    with Reporter("final models", "models") as reporter:
        while waiting:
            _, waiting = ray.wait(waiting)
            reporter.update(2 * len(chosen) - len(waiting), 2 * len(chosen))
    return np.mean(ray.get(crossed), axis=0), ray.get(texts)


def _crossed(task: SweepTask, folds: list[FoldData], record: TrialRecord, posts: int) -> np.ndarray:
    params = {**task.settings.params, **record.params}
    return cross_fit(task.predictor, folds, params, task.settings, record.rounds).out_of_fold(posts)


def _final(task: SweepTask, record: TrialRecord, matrix: Matrix, popularity: np.ndarray) -> str:
    return fit(task.predictor, matrix, popularity, task.complete(record.params), record.rounds).text()


def write_models(
    workspace: Workspace, folder: str, matrix: Matrix, objective: str, chosen: Sequence[TrialRecord], texts: list[str]
) -> list[str]:
    """Write `model-<i>.txt` and `columns.json` into a folder of the workspace; the models' paths in the workspace."""
    names = [f"model-{place}.txt" for place in range(len(texts))]
    for name, text in zip(names, texts, strict=True):
        workspace.write(text.encode(), folder, name)
    columns = [
        {"name": name, "family": family, "levels": list(matrix.levels[name]) if name in matrix.levels else None}
        for name, family in zip(matrix.names, matrix.families, strict=True)
    ]
    used = [
        {"trial": record.number, "rounds": record.rounds, "params": record.params, "objective": record.objective}
        for record in chosen
    ]
    described = {"objective": objective, "columns": columns, "models": names, "trials": used}
    workspace.write_json(described, folder, "columns.json")
    return [f"{folder}/{name}" for name in names]
