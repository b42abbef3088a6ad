"""Predictions for every post: out of fold where it is labelled, by the final model where it is not.

`predictions.parquet` has one row a post; `submission.json` is the SMP Challenge's file of the posts that were not
trained on.
"""

import json

import numpy as np
import pyarrow as pa

from smp_ray.config import Config, external_data
from smp_ray.errors import WorkspaceError
from smp_ray.run import Run
from smp_ray.store.join import locate
from smp_ray.store.manifest import Made, Manifest
from smp_ray.store.parquet import write_table
from smp_ray.store.reader import iter_posts
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.registry import find
from smp_ray.training.matrix.matrix import Matrix, load_final
from smp_ray.training.out_of_fold import read_out_of_fold
from smp_ray.training.splits import Splits, load_splits
from smp_ray.training.sweep.tune import TUNED

SUBMISSION_VERSION = "VERSION 1.2"
_PIECE = 200_000


def predict(run: Run, folder: str, posts: Manifest, matrix: Manifest, splits: Manifest, tuned: Manifest) -> Made:
    """Predict every post and write both files.

    Raises:
        WorkspaceError: the model does not fit the matrix.
    """
    workspace, folds = run.workspace, load_splits(run.workspace, splits)
    final, row_ids, training = load_final(workspace, matrix)
    prediction = np.full(len(row_ids), np.nan)
    prediction[~training] = predict_matrix(workspace, tuned, final.rows(~training))
    out_of_fold = read_out_of_fold(workspace, tuned, folds, TUNED)
    prediction[locate(folds.row_ids, row_ids)] = out_of_fold
    table = _table(workspace, posts, folds, row_ids, prediction, training)
    fragment = write_table(workspace, f"{folder}/predictions.parquet", table)
    submission = f"{folder}/submission.json"
    counts = {"out_of_fold": int(np.isfinite(out_of_fold).sum())}
    counts["model"] = _write_submission(workspace, submission, table, run.config)
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


def _table(
    workspace: Workspace,
    posts: Manifest,
    splits: Splits,
    row_ids: np.ndarray,
    prediction: np.ndarray,
    training: np.ndarray,
) -> pa.Table:
    """One row a post: keys, user, split, popularity, fold, prediction and where it comes from."""
    wanted = ["row_id", "post_id", "user_id", "split", "popularity"]
    table = pa.concat_tables(list(iter_posts(workspace, posts, wanted, _PIECE)))
    assert (table["row_id"].to_numpy() == row_ids).all()  # both are in the order of ingest
    place = locate(row_ids, splits.row_ids)
    source = np.where(~training, "model", np.where(np.isfinite(prediction), "out_of_fold", "trains_only"))
    table = table.append_column("fold", pa.array(splits.folds[place], pa.int16(), mask=place < 0))
    table = table.append_column("prediction", pa.array(prediction, from_pandas=True))
    return table.append_column("source", pa.array(source.tolist(), pa.string()))


def _write_submission(workspace: Workspace, path: str, table: pa.Table, config: Config) -> int:
    """The challenge's file, a line a post; returns the number of posts in it."""
    entries = [
        json.dumps({"post_id": post, "popularity_score": round(prediction, 4)}, ensure_ascii=False)
        for post, prediction, source in zip(
            *(table[name].to_pylist() for name in ("post_id", "prediction", "source")), strict=True
        )
        if source == "model"
    ]
    external = json.dumps({"used": "true", "details": external_data(config)}, ensure_ascii=False)
    result = ",".join(f"\n{entry}" for entry in entries)
    text = f'{{"version": "{SUBMISSION_VERSION}", "result": [{result}\n], "external_data": {external}}}\n'
    workspace.write(text.encode(), path)
    return len(entries)
