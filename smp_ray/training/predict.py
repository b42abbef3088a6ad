"""Predictions for every post: out of fold where it is labelled, by the final model where it is not.

`predictions.parquet` has one row a post; `submission.json` is the SMP Challenge's file of the posts that were not
trained on.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.config import external_data
from smp_ray.errors import WorkspaceError
from smp_ray.run import Run
from smp_ray.store.join import locate
from smp_ray.store.manifest import Made, Manifest
from smp_ray.store.parquet import read_table, write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.registry import find
from smp_ray.training.matrix.matrix import Matrix, load_final
from smp_ray.training.out_of_fold import read_out_of_fold
from smp_ray.training.splits import load_splits
from smp_ray.training.sweep.tune import TUNED

SUBMISSION_VERSION = "VERSION 1.2"


def predict(run: Run, folder: str, posts: Manifest, matrix: Manifest, splits: Manifest, tuned: Manifest) -> Made:
    """Predict every post and write both files; a WorkspaceError where the model does not fit the matrix."""
    workspace, folds = run.workspace, load_splits(run.workspace, splits)
    final, row_ids, training = load_final(workspace, matrix)
    prediction = np.full(len(row_ids), np.nan)
    prediction[~training] = predict_matrix(workspace, tuned, final.rows(~training))
    out_of_fold = read_out_of_fold(workspace, tuned, folds, TUNED)
    prediction[locate(folds.row_ids, row_ids)] = out_of_fold
    wanted = ["row_id", "post_id", "user_id", "split", "popularity"]
    table = pa.concat_tables([read_table(workspace, fragment.path, wanted) for fragment in posts.fragments])
    assert (table["row_id"].to_numpy() == row_ids).all()  # both are in the order of ingest
    place = locate(row_ids, folds.row_ids)
    source = np.where(~training, "model", np.where(np.isfinite(prediction), "out_of_fold", "trains_only"))
    table = table.append_column("fold", pa.array(folds.folds[place], pa.int16(), mask=place < 0))
    table = table.append_column("prediction", pa.array(prediction, from_pandas=True))
    table = table.append_column("source", pa.array(source.tolist(), pa.string()))
    fragment = write_table(workspace, f"{folder}/predictions.parquet", table)
    submission = f"{folder}/submission.json"
    scores = [
        {"post_id": post["post_id"], "popularity_score": round(post["prediction"], 4)}
        for post in table.filter(pc.field("source") == "model").to_pylist()
    ]
    external = {"used": "true", "details": external_data(run.config)}
    workspace.write_json({"version": SUBMISSION_VERSION, "result": scores, "external_data": external}, submission)
    counts = {"out_of_fold": int(np.isfinite(out_of_fold).sum()), "model": len(scores)}
    said = f"{counts['out_of_fold']:,} posts out of fold, {counts['model']:,} by the model"
    return Made(
        rows=table.num_rows,
        counts=counts,
        fragments=[fragment],
        details={"predictions": fragment.path, "submission": submission},
        note=f"{said} → {workspace.path(folder)}",
    )


def predict_matrix(workspace: Workspace, tuned: Manifest, matrix: Matrix) -> np.ndarray:
    """Mean prediction of the final models, float64 (posts,).

    Raises:
        WorkspaceError: a model was trained on other columns.
    """
    predictor = find(tuned.details["predictor"])
    predictions = []
    for path in tuned.details["models"]:
        model = predictor.load(workspace.read(path).decode())
        if model.columns != len(matrix.names):
            found, given = model.columns, len(matrix.names)
            raise WorkspaceError(f"{workspace.path(path)}: trained on {found} columns, the matrix has {given}")
        predictions.append(model.predict(matrix) if len(matrix.values) else np.zeros(0))
    return np.asarray(np.mean(predictions, axis=0))
