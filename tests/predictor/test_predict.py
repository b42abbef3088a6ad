"""What was learned stays as it is when unlabelled posts come; it also tests `predictor/fitted.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from smp_ray.config import Config
from smp_ray.errors import ConfigError
from smp_ray.pipeline import open_run, run_stages
from smp_ray.ray_session import RaySession
from smp_ray.run import Run
from smp_ray.store.manifest import Manifest
from tests.predictor.small import config, rows


def predicted(session: RaySession, config: Config) -> tuple[Run, pd.DataFrame, list[str]]:
    """A run, its predictions, and the posts that it submits."""
    run = open_run(config, session)
    run_stages(run, ["predict"])
    found = run.artefact("predict")
    assert isinstance(found, Manifest)
    submitted = json.loads(run.workspace.read(found.details["submission"]))["result"]
    frame = pd.read_parquet(run.workspace.path(found.details["predictions"]))
    return run, frame, [post["post_id"] for post in submitted]


@pytest.mark.parametrize(
    "kind", [pytest.param("user", marks=pytest.mark.slow), pytest.param("time", marks=pytest.mark.thorough)]
)
def test_new_posts_train_nothing_and_move_no_prediction(tmp_path: Path, session: RaySession, kind: str) -> None:
    learned, before = rows(90), rows(8, 200, label=False)
    first, there, _ = predicted(session, config(tmp_path, learned + before, kind))
    second, more, submitted = predicted(session, config(tmp_path, learned + before + rows(10, 300, label=False), kind))
    for name in ("splits", "matrix", "tune"):
        assert second.stage(name).key(second) == first.stage(name).key(first), name
    assert len(more) == len(there) + 10
    pd.testing.assert_frame_equal(more.iloc[: len(there)], there)
    assert set(more["source"][90:]) == {"model"}
    assert more["prediction"][90:].notna().all()
    assert submitted == more["post_id"][90:].tolist()


@pytest.mark.slow
def test_a_new_label_is_learned_from_unless_the_predictor_is_kept(tmp_path: Path, session: RaySession) -> None:
    first = open_run(config(tmp_path, rows(60)), session)
    run_stages(first, ["splits"])
    more = config(tmp_path, rows(60) + rows(1, 400))
    kept = open_run(more, session, keep=True)
    run_stages(kept, ["features", "splits"])
    assert kept.stage("matrix").key(kept) == first.stage("matrix").key(first)
    other = more.features.model_copy(
        update={"perplexity": more.features.section("perplexity").model_copy(update={"max_tokens": 3})}
    )
    with pytest.raises(ConfigError, match="--keep-predictor: it learned from other features than these of perplexity"):
        run_stages(open_run(more.model_copy(update={"features": other}), session, keep=True), ["features", "splits"])
    second = open_run(more, session)
    run_stages(second, ["splits"])
    assert second.stage("matrix").key(second) != first.stage("matrix").key(first)
