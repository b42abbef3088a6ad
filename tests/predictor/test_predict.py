"""What was learned stays as it is when unlabelled posts come; it also tests `predictor/fitted.py`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from smp_ray.config import Config, build_config
from smp_ray.pipeline import open_run, run_stages
from smp_ray.ray_session import RaySession
from smp_ray.run import Run

NAMES = {
    "post_id": "id", "user_id": "user", "title": "title", "popularity": "label", "posted_at": "when", "split": "split",
}  # fmt: skip
LEARNED = ("gather", "splits", "matrix", "tune")


def rows(count: int, first: int = 0, label: bool = True) -> list[dict[str, Any]]:
    rng = np.random.default_rng(first)
    return [
        {
            "id": f"p{first + n}", "user": f"u{rng.integers(12)}", "title": f"{'good ' * rng.integers(4)}boat {n}",
            "label": round(rng.normal() + n % 4, 3) if label else "", "when": 1_600_000_000 + 3600 * (first + n),
            "split": "train" if label else "test",
        }
        for n in range(count)
    ]  # fmt: skip


def config(folder: Path, posts: list[dict[str, Any]], kind: str = "user", **training: Any) -> Config:
    with (folder / "posts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, posts[0])
        writer.writeheader()
        writer.writerows(posts)
    tune = {"trials": 2, "max_rounds": 20, "max_concurrent": 1}
    return build_config({
        "workspace": str(folder / "run"),
        "source": {"kind": "table", "path": str(folder / "posts.csv"), "columns": NAMES},
        "features": {"families": ["perplexity"]},
        "training": {"split": {"folds": 3, "kind": kind}, "tune": tune, "baselines": ["mean"], **training},
    })  # fmt: skip


def predicted(session: RaySession, config: Config) -> tuple[Run, pd.DataFrame]:
    run = open_run(config, session)
    run_stages(run, ["predict"])
    (found,) = [run.artefact("predict")]
    assert found is not None
    assert not isinstance(found, dict)
    return run, pd.read_parquet(run.workspace.path(found.details["predictions"]))


@pytest.mark.parametrize("kind", ["user", "time"])
def test_new_posts_train_nothing_and_move_no_prediction(tmp_path: Path, session: RaySession, kind: str) -> None:
    learned, before = rows(90), rows(8, 200, label=False)
    first, there = predicted(session, config(tmp_path, learned + before, kind))
    second, more = predicted(session, config(tmp_path, learned + before + rows(10, 300, label=False), kind))
    for name in LEARNED[1:]:
        assert second.stage(name).key(second) == first.stage(name).key(first), name
    assert len(more) == len(there) + 10
    pd.testing.assert_frame_equal(more.iloc[: len(there)], there)
    assert set(more["source"][98:]) == {"model"}
    assert more["prediction"][98:].notna().all()
    submission = json.loads(
        next((tmp_path / "run/predict").glob(f"{second.stage('predict').key(second)}/sub*")).read_text()
    )
    assert [post["post_id"] for post in submission["result"]] == more["post_id"][90:].tolist()


def test_a_new_label_is_learned_from(tmp_path: Path, session: RaySession) -> None:
    first = open_run(config(tmp_path, rows(60)), session)
    run_stages(first, ["splits"])
    second = open_run(config(tmp_path, rows(60) + rows(1, 400)), session)
    run_stages(second, ["splits"])
    assert second.stage("matrix").key(second) != first.stage("matrix").key(first)
