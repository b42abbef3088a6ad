"""Folds over the labelled posts: made once from the config, stored, and read by every later stage.

`splits.parquet` has one row a labelled post: row_id, post_id, user_id, popularity, fold. A post of fold k >= 0 is
judged by what was trained without it; fold -1 (the first block of a `time` split) only trains.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from smp_ray.config import SplitConfig
from smp_ray.errors import DataError
from smp_ray.evaluation.bootstrap import user_codes
from smp_ray.run import Run
from smp_ray.schema import POSTS
from smp_ray.store.manifest import Made, Manifest, content_of
from smp_ray.store.parquet import read_table, write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.examples import POSTS as LABELLED
from smp_ray.training.examples import example_pieces

#: Fold of a post that only trains.
TRAINS_ONLY = -1
_FILE = "splits.parquet"

_POSTS = ("row_id", "post_id", "user_id", "popularity")
SCHEMA = pa.schema([*(POSTS.field(name) for name in _POSTS), pa.field("fold", pa.int16(), nullable=False)])


@dataclass(frozen=True)
class Splits:
    """The labelled posts and their folds, all arrays (posts,) in the order of ingest.

    Attributes:
        kind: `user`, `time` or `random`.
        count: number of folds.
        row_ids: int64.
        post_ids: object.
        users: int64, see `user_codes`.
        popularity: float64.
        folds: int16, see the module.
    """

    kind: str
    count: int
    row_ids: np.ndarray
    post_ids: np.ndarray
    users: np.ndarray
    popularity: np.ndarray
    folds: np.ndarray

    def training(self, fold: int) -> np.ndarray:
        """Posts that what judges `fold` may learn from, bool (posts,): the past under `time`, else all other folds."""
        return self.folds < fold if self.kind == "time" else self.folds != fold

    def validation(self, fold: int) -> np.ndarray:
        """Posts of a fold, bool (posts,)."""
        return self.folds == fold

    @property
    def judged(self) -> np.ndarray:
        """Posts that have an out-of-fold prediction, bool (posts,)."""
        return self.folds >= 0


def make_splits(run: Run, folder: str, posts: Manifest) -> Made:
    """Divide the labelled posts into folds.

    Raises:
        DataError: fewer posts, users (or moments) than folds.
    """
    settings = run.config.training.split
    pieces = example_pieces(run.workspace, posts, [LABELLED])
    labelled = pa.concat_tables(piece.select([*_POSTS, "posted_at"]) for piece in pieces)
    folds, warnings = divide(labelled, settings)
    table = labelled.drop_columns(["posted_at"]).append_column(SCHEMA.field("fold"), pa.array(folds)).cast(SCHEMA)
    users = len(np.unique(user_codes(table["user_id"])))
    fragment = write_table(run.workspace, f"{folder}/{_FILE}", table)
    content = content_of(run.workspace.read(fragment.path))
    return Made(
        rows=table.num_rows,
        counts={f"fold {n}" if n >= 0 else "trains only": int((folds == n).sum()) for n in np.unique(folds)},
        fragments=[fragment],
        details={"warnings": warnings, "contents": {"folds": content}},
        note=f"{table.num_rows:,} labelled posts of {users:,} users in {settings.folds} folds by {settings.kind}",
    )


def load_splits(workspace: Workspace, manifest: Manifest) -> Splits:
    """Read what `make_splits` stored."""
    table = read_table(workspace, manifest.file(_FILE).path)
    return Splits(
        kind=str(manifest.config["kind"]),
        count=int(manifest.config["folds"]),
        row_ids=table["row_id"].to_numpy(),
        post_ids=table["post_id"].to_numpy(),
        users=user_codes(table["user_id"]),
        popularity=table["popularity"].to_numpy(),
        folds=table["fold"].to_numpy(),
    )


def divide(labelled: pa.Table, settings: SplitConfig) -> tuple[np.ndarray, list[str]]:
    """Folds of labelled posts, int16 (posts,), and warnings about the data in words.

    The posts have columns user_id and posted_at; a DataError where they cannot be divided so.
    """
    from sklearn.model_selection import GroupKFold, KFold

    if settings.kind == "time":
        return _by_time(labelled, settings.folds), []
    users, by_user = user_codes(labelled["user_id"]), settings.kind == "user"
    found = len(np.unique(users))
    if by_user and found < settings.folds:
        raise DataError(
            f"training.split: {found} user{'s' if found != 1 else ''} for {settings.folds} folds that are disjoint "
            "by user; set training.split.folds lower, or training.split.kind to random or time"
        )
    if labelled.num_rows < settings.folds:
        raise DataError(f"training.split: {labelled.num_rows} labelled posts for {settings.folds} folds")
    splitter = (GroupKFold if by_user else KFold)(n_splits=settings.folds, shuffle=True, random_state=settings.seed)
    folds = np.full(labelled.num_rows, TRAINS_ONLY, dtype=np.int16)
    for fold, (_, validation) in enumerate(splitter.split(users, groups=users if by_user else None)):
        folds[validation] = fold
    nameless = by_user and labelled["user_id"].null_count == labelled.num_rows
    return folds, ["no post names its user, so the folds are random and not disjoint by user"] if nameless else []


def _by_time(labelled: pa.Table, count: int) -> np.ndarray:
    """Blocks of equal size in the order of posting; posts of the same moment stay together."""
    if missing := labelled["posted_at"].null_count:
        raise DataError(
            f"training.split: kind time needs a time of posting, which {missing:,} of {labelled.num_rows:,} posts lack"
        )
    moments = labelled["posted_at"].cast(pa.int64()).to_numpy()
    before = np.searchsorted(np.sort(moments), moments, side="left")
    blocks = before * (count + 1) // labelled.num_rows
    if len(np.unique(blocks)) < count + 1:
        raise DataError(
            f"training.split: the posts have too few different moments for {count} folds in time and a first block"
        )
    return (blocks - 1).astype(np.int16)
