"""The predict stage: every post's popularity, out of fold where it was learned from, else by the final models.

`predictions.parquet` has one row a post; `submission.json` is the SMP Challenge's file: all posts of split `test`, and
no others.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.config import external_data
from smp_ray.predictor.fitted import Fitted
from smp_ray.run import Run
from smp_ray.schema import POSTS
from smp_ray.store.join import locate
from smp_ray.store.manifest import Made, Manifest
from smp_ray.store.parquet import PartWriter
from smp_ray.store.reader import iter_posts
from smp_ray.store.wide import PIECE, wide
from smp_ray.store.workspace import Workspace
from smp_ray.training.out_of_fold import TUNED, read_out_of_fold
from smp_ray.training.past import Past
from smp_ray.training.splits import load_splits

SUBMISSION_VERSION = "VERSION 1.2"
TEST = "test"
SCHEMA = pa.schema([
    *(POSTS.field(name) for name in ("row_id", "post_id", "user_id", "split", "popularity")),
    pa.field("fold", pa.int16()), pa.field("prediction", pa.float64()), pa.field("source", pa.string()),
])  # fmt: skip


def predict(
    run: Run,
    folder: str,
    posts: Manifest,
    store: dict[str, Manifest],
    splits: Manifest,
    adapted: Manifest | None,
    matrix: Manifest,
    tuned: Manifest,
) -> Made:
    """Predict every post, in memory for a piece of posts and some 50 bytes a post, and write both files.

    Raises:
        DataError: the models do not fit the posts.
    """
    workspace, folds = run.workspace, load_splits(run.workspace, splits)
    out_of_fold = read_out_of_fold(workspace, tuned, folds, TUNED)
    counts: Counter[str] = Counter()
    scores: list[dict[str, object]] = []
    fitted = Fitted.of(workspace, run.config, splits, adapted, matrix, tuned)
    predicted = _predicted(workspace, posts, store, fitted, folds.row_ids)
    with PartWriter(workspace, f"{folder}/predictions.parquet", SCHEMA) as writer:
        for table, place, prediction in predicted:
            learned = place >= 0
            prediction[learned] = out_of_fold[place[learned]]
            source = np.where(~learned, "model", np.where(np.isfinite(prediction), "out_of_fold", "trains_only"))
            table = table.append_column("fold", pa.array(folds.folds[place], pa.int16(), mask=~learned))
            table = table.append_column("prediction", pa.array(prediction, from_pandas=True))
            table = table.append_column("source", pa.array(source.tolist(), pa.string()))
            writer.write(table.cast(SCHEMA))
            counts.update(source.tolist())
            scores += [
                {"post_id": post["post_id"], "popularity_score": round(post["prediction"], 4)}
                for post in table.filter(pc.equal(table["split"], TEST)).select(["post_id", "prediction"]).to_pylist()
            ]
    submission = f"{folder}/submission.json"
    external = {"used": "true", "details": external_data(run.config)}
    workspace.write_json({"version": SUBMISSION_VERSION, "result": scores, "external_data": external}, submission)
    said = ", ".join(f"{counts[name]:,} {words}" for name, words in _SAID.items() if counts[name])
    return Made(
        rows=posts.rows,
        counts=dict(counts),
        fragments=writer.fragments,
        details={"predictions": writer.fragments[0].path, "submission": submission, "test_posts": len(scores)},
        note=f"{said}; {len(scores):,} of split {TEST} for the challenge → {workspace.path(folder)}",
    )


#: What the sources are called in the note.
_SAID = {"out_of_fold": "posts out of fold", "trains_only": "that only train", "model": "by the model"}


def _predicted(
    workspace: Workspace, posts: Manifest, store: dict[str, Manifest], fitted: Fitted, learned: np.ndarray
) -> Iterator[tuple[pa.Table, np.ndarray, np.ndarray]]:
    """Pieces of the posts table, where each post is among those that were `learned` from (-1: it is not), predictions.

    Predictions are float64 (posts,), NaN of what was learned from.
    """
    past = fitted.past.joined(Past.of_posts(iter_posts(workspace, posts, ["user_id", "posted_at"], PIECE)))
    known = [name for name in SCHEMA.names if name in POSTS.names]
    for table in wide(workspace, posts, [store[name] for name in fitted.families]):
        place = locate(table["row_id"].to_numpy(), learned)
        prediction = np.full(len(table), np.nan)
        if (place < 0).any():
            prediction[place < 0] = fitted.predict(fitted.matrix([table.filter(pa.array(place < 0))], past))
        yield table.select(known), place, prediction
