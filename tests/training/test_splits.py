from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from smp_ray.config import Config, SplitConfig, build_config
from smp_ray.errors import DataError
from smp_ray.store.manifest import Manifest
from smp_ray.store.workspace import Workspace
from smp_ray.training.splits import Splits, divide, load_splits
from tests.training.runs import brought, run_with

DAY = 86_400_000_000


def labelled(users: list[str | None], days: list[int] | None = None) -> pa.Table:
    days = days or list(range(len(users)))
    moments = pa.array([day * DAY for day in days], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    return pa.table({"user_id": pa.array(users, pa.string()), "posted_at": moments})


def as_splits(kind: str, folds: np.ndarray, count: int) -> Splits:
    posts = len(folds)
    ids = np.arange(posts)
    return Splits(kind, count, ids, ids.astype(object), ids, np.ones(posts), folds)


def test_no_user_is_in_two_folds_and_every_post_is_judged_once() -> None:
    users: list[str | None] = [f"user {n % 17}" for n in range(200)]
    folds, warnings = divide(labelled(users), SplitConfig(folds=5))
    assert not warnings
    assert set(folds) == set(range(5))
    of_user: dict[str | None, set[int]] = {}
    for user, fold in zip(users, folds, strict=True):
        of_user.setdefault(user, set()).add(int(fold))
    assert all(len(found) == 1 for found in of_user.values())


def test_the_same_seed_gives_the_same_folds_and_another_seed_others() -> None:
    table = labelled([f"user {n}" for n in range(60)])
    first, _ = divide(table, SplitConfig(seed=1))
    assert (first == divide(table, SplitConfig(seed=1))[0]).all()
    assert (first != divide(table, SplitConfig(seed=2))[0]).any()


def test_posts_without_a_user_are_users_of_their_own() -> None:
    folds, warnings = divide(labelled([None] * 50), SplitConfig(folds=5))
    assert (np.bincount(folds) == 10).all()
    assert "no post names its user" in warnings[0]


def test_time_trains_on_the_past_only() -> None:
    rng = np.random.default_rng(0)
    days = rng.integers(0, 90, 300).tolist()
    folds, _ = divide(labelled(["one"] * 300, days), SplitConfig(kind="time", folds=4))
    splits = as_splits("time", folds, 4)
    moments = np.array(days)
    for fold in range(4):
        assert splits.training(fold).any()
        assert moments[splits.training(fold)].max() < moments[splits.validation(fold)].min()
    assert not splits.judged[folds == -1].any()


def test_posts_of_one_moment_stay_together() -> None:
    days = [day // 7 for day in range(140)]
    folds, _ = divide(labelled(["one"] * 140, days), SplitConfig(kind="time", folds=3))
    for day in set(days):
        assert len({int(fold) for fold, own in zip(folds, days, strict=True) if own == day}) == 1


def test_random_ignores_users() -> None:
    folds, _ = divide(labelled(["one"] * 100), SplitConfig(kind="random", folds=5))
    assert (np.bincount(folds) == 20).all()


def write_posts(path: Path, rows: list[tuple[Any, ...]]) -> Path:
    lines = ["id,user,title,label,when"]
    lines += [",".join("" if cell is None else str(cell) for cell in row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def config_of(folder: Path, rows: list[tuple[Any, ...]], **split: Any) -> Config:
    names = {"post_id": "id", "user_id": "user", "title": "title", "popularity": "label", "posted_at": "when"}
    source = {"kind": "table", "path": str(write_posts(folder / "posts.csv", rows)), "columns": names}
    training = {"split": split, "matrix": {"families": ["metadata"]}}
    raw = {"workspace": str(folder / "run"), "source": source, "training": training}
    return build_config(raw)


def made(config: Config) -> tuple[Workspace, Manifest]:
    run = run_with(config, features={})
    for name in ("ingest", "gather"):
        brought(run, name)
    return run.workspace, brought(run, "splits")


ROWS = [(n, f"u{n % 8}", "title", 5 + n % 3, 1_600_000_000 + n) for n in range(40)]


@pytest.mark.parametrize(
    ("rows", "split", "message"),
    [
        ([(n, "u", "t", None, 1) for n in range(9)], {}, "no post of split train has a popularity"),
        ([(n, f"u{n}", "t", 3, 1) for n in range(9)], {}, "all 9 labels are 3"),
        ([(n, "only", "t", n, 1) for n in range(9)], {}, "1 user for 5 folds"),
        ([(n, f"u{n % 3}", "t", n, 1) for n in range(9)], {}, "3 users for 5 folds"),
        ([(n, "u", "t", n, 1) for n in range(4)], {"kind": "random"}, "4 labelled posts for 5 folds"),
        ([(n, "u", "t", n, None) for n in range(9)], {"kind": "time"}, "which 9 of 9 posts lack"),
        ([(n, "u", "t", n, 1) for n in range(9)], {"kind": "time"}, "too few different moments"),
    ],
)
def test_data_that_cannot_be_divided(tmp_path: Path, rows: list[Any], split: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(config_of(tmp_path, rows, **split))
    assert not list((tmp_path / "run").glob("splits/*/manifest.json"))


def test_stored_folds_are_read_back_and_unlabelled_posts_are_in_none(tmp_path: Path) -> None:
    rows = [*ROWS, (99, "u1", "not labelled", None, 5), (100, "u2", "nor this", "nan", 5)]
    workspace, manifest = made(config_of(tmp_path, rows))
    splits = load_splits(workspace, manifest)
    assert sorted(splits.post_ids) == sorted(str(row[0]) for row in ROWS)
    assert splits.judged.all()
    assert (splits.popularity == [5 + int(post) % 3 for post in splits.post_ids]).all()
    assert sum(manifest.counts.values()) == 40
