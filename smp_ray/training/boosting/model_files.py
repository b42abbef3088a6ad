"""The final model on disk: LightGBM's own text files and a list of columns, read by plain LightGBM.

    booster = lightgbm.Booster(model_file="model/model-0.txt")
    columns = json.load(open("model/columns.json"))["columns"]
    prediction = booster.predict(values)  # one column each, in this order; categories as the places of their levels

The prediction is the mean over `models`, where there are several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from smp_ray.config import TuneConfig
from smp_ray.progress import Reporter
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.booster import fit
from smp_ray.training.matrix.matrix import Matrix
from smp_ray.training.sweep.trial import trial_params
from smp_ray.training.sweep.trial_files import TrialRecord


def fit_models(
    matrix: Matrix,
    popularity: np.ndarray,
    settings: TuneConfig,
    max_bin: int,
    chosen: Sequence[TrialRecord],
    concurrency: int,
) -> list[str]:
    """Train each chosen trial's model on all training posts, in Ray tasks side by side.

    Args:
        matrix: the training posts.
        popularity: their labels, float64 (posts,).
        settings: the sweep's configuration.
        max_bin: histogram bins a column.
        chosen: trials whose parameters, seeds and rounds are used.
        concurrency: models side by side.

    Returns:
        The models as LightGBM's text.
    """
    import ray

    task = ray.remote(num_cpus=settings.cpus_per_trial)(_fit)
    shared, labels = ray.put(matrix), ray.put(popularity)
    texts: dict[int, str] = {}
    running: dict[Any, int] = {}
    with Reporter("final models", "models") as reporter:
        while len(texts) < len(chosen):
            # No more at once than there were trials: a local Ray has more logical CPUs than cores.
            while len(running) < concurrency and len(texts) + len(running) < len(chosen):
                place = len(texts) + len(running)
                record = chosen[place]
                params = trial_params(settings, max_bin, record.number, record.params)
                running[task.remote(shared, labels, params, record.rounds)] = place
            ready, _ = ray.wait(list(running), timeout=1.0)
            texts |= {running.pop(one): str(ray.get(one)) for one in ready}
            reporter.update(len(texts), len(chosen))
    return [texts[place] for place in range(len(chosen))]


def _fit(matrix: Matrix, popularity: np.ndarray, params: dict[str, Any], rounds: int) -> str:
    return str(fit(matrix, popularity, params, rounds).model_to_string())


def write_models(
    workspace: Workspace,
    folder: str,
    matrix: Matrix,
    settings: TuneConfig,
    chosen: Sequence[TrialRecord],
    models: Sequence[str],
) -> list[str]:
    """Write `model-<i>.txt` and `columns.json` into a folder of the workspace; the models' paths in the workspace."""
    paths = [f"{folder}/model-{place}.txt" for place in range(len(models))]
    for path, text in zip(paths, models, strict=True):
        workspace.write(text.encode(), path)
    columns = [
        {"name": name, "family": family, "levels": list(matrix.levels[name]) if name in matrix.categorical else None}
        for name, family in zip(matrix.names, matrix.families, strict=True)
    ]
    used = [
        {"trial": record.number, "rounds": record.rounds, "params": record.params, "objective": record.objective}
        for record in chosen
    ]
    described = {
        "objective": settings.objective, "columns": columns, "models": [path.rsplit("/", 1)[1] for path in paths],
        "trials": used,
    }  # fmt: skip
    workspace.write_json(described, folder, "columns.json")
    return paths
