"""Predictions for every post: out of fold where it is labelled, by the final model where it is not.

`predict/<fingerprint>/predictions.parquet` has one row a post; `submission.json` is the SMP Challenge's file of the
posts that were not trained on.
"""

from __future__ import annotations

import json
import time
from typing import Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.config import Config
from smp_ray.errors import WorkspaceError
from smp_ray.store import iter_posts
from smp_ray.training.evaluate import out_of_fold_fragment, read_out_of_fold
from smp_ray.training.matrix import Matrix, load_final
from smp_ray.training.splits import Splits
from smp_ray.workspace import Fragment, Manifest, Workspace

STAGE = "predict"
SUBMISSION_VERSION = "VERSION 1.2"
_PIECE = 200_000


def predict(
    config: Config,
    workspace: Workspace,
    posts: Manifest,
    splits: Splits,
    matrix: Manifest,
    tuned: Manifest,
    key: str,
) -> Manifest:
    """Predict every post and write both files; a no-op where that was done.

    Raises:
        WorkspaceError: the model does not fit the matrix.
    """
    if (done := workspace.manifest(STAGE, key)) is not None:
        return done
    began = time.monotonic()
    final, row_ids, training = load_final(workspace, matrix)
    prediction = np.full(len(row_ids), np.nan)
    unseen = ~training
    prediction[unseen] = predict_matrix(workspace, tuned, final.rows(unseen))
    out_of_fold = read_out_of_fold(workspace, out_of_fold_fragment(tuned), splits, "prediction")
    order = np.argsort(row_ids)
    prediction[order[np.searchsorted(row_ids, splits.row_ids, sorter=order)]] = out_of_fold
    workspace.make_dir(STAGE, key)
    path = f"{STAGE}/{key}/predictions.parquet"
    table = _table(workspace, posts, splits, row_ids, prediction, training)
    pq.write_table(table, workspace.path(path), filesystem=workspace.filesystem, compression="zstd")
    submitted = _write_submission(workspace, f"{STAGE}/{key}/submission.json", table, config)
    size = workspace.filesystem.get_file_info(workspace.path(path)).size
    counts = {"out_of_fold": int(np.isfinite(out_of_fold).sum()), "model": submitted}
    return workspace.commit(
        Manifest(
            stage=STAGE, fingerprint=key, config={}, inputs={"tune": tuned.fingerprint}, rows=table.num_rows,
            counts=counts, wall_seconds=round(time.monotonic() - began, 3),
            fragments=[Fragment(path, table.num_rows, size)],
            details={"predictions": path, "submission": f"{STAGE}/{key}/submission.json"},
        )
    )  # fmt: skip


def predict_matrix(workspace: Workspace, tuned: Manifest, matrix: Matrix) -> np.ndarray:
    """Mean prediction of the final models, float64 (posts,).

    Raises:
        WorkspaceError: a model was trained on other columns.
    """
    total = np.zeros(len(matrix.values))
    models = tuned.details["models"]
    for path in models:
        with workspace.filesystem.open_input_stream(workspace.path(path)) as stream:
            booster = lgb.Booster(model_str=stream.read().decode())
        if booster.num_feature() != len(matrix.names):
            found, given = booster.num_feature(), len(matrix.names)
            raise WorkspaceError(f"{workspace.path(path)}: trained on {found} columns, the matrix has {given}")
        if len(matrix.values):
            total += np.asarray(booster.predict(matrix.values))
    return total / len(models)


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
    fold_of = dict(zip(splits.row_ids.tolist(), splits.folds.tolist(), strict=True))
    folds = pa.array([fold_of.get(row_id) for row_id in row_ids.tolist()], pa.int16())
    source = np.where(~training, "model", np.where(np.isfinite(prediction), "out_of_fold", "trains_only"))
    table = table.append_column("fold", folds)
    table = table.append_column("prediction", pa.array(prediction, from_pandas=True))
    return table.append_column("source", pa.array(source.tolist(), pa.string()))


def _write_submission(workspace: Workspace, path: str, table: pa.Table, config: Config) -> int:
    """The challenge's file, streamed post by post; returns the number of posts in it."""
    external = json.dumps({"used": "true", "details": _external_data(config)}, ensure_ascii=False)
    count = 0
    with workspace.filesystem.open_output_stream(workspace.path(path)) as stream:
        stream.write(f'{{"version": "{SUBMISSION_VERSION}", "result": ['.encode())
        for batch in table.select(["post_id", "prediction", "source"]).to_batches():
            for row in batch.to_pylist():
                if row["source"] != "model":
                    continue
                entry: dict[str, Any] = {"post_id": row["post_id"], "popularity_score": round(row["prediction"], 4)}
                stream.write(f"{',' if count else ''}\n{json.dumps(entry, ensure_ascii=False)}".encode())
                count += 1
        stream.write(f'\n], "external_data": {external}}}\n'.encode())
    return count


def _external_data(config: Config) -> str:
    """The pre-trained models behind the features, in words."""
    features = config.features
    named = {
        "caption": f"captions by {features.captioner.model}",
        "clip": f"CLIP embeddings by {' '.join(filter(None, (features.clip.model, features.clip.pretrained)))}",
        "perplexity": f"text perplexity under {features.perplexity.model}",
    }
    return "; ".join(named[family] for family in features.families)
