"""What is said where a pass fails in a worker, and what a task that Ray ends leaves to the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.exceptions import StreamingGeneratorReplayInconsistentError

from smp_ray.errors import FamilyError, FeaturePassError, LostNodesError
from smp_ray.features import actors, one_pass
from smp_ray.features.feature_pass import explain
from smp_ray.ray_session import RaySession
from tests.features.conftest import exported, run_features, table_config, write_table


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (SystemError("method: bad call flags"), "SystemError: method: bad call flags"),
        (MemoryError(), "MemoryError"),
        (FamilyError("letters: three"), "letters: three"),
    ],
)
def test_the_cause_is_said_and_not_what_ray_adds(session: RaySession, raised: Exception, said: str) -> None:
    session.start()

    def fail(_: pa.Table) -> pa.Table:
        try:
            raise raised
        except MemoryError as error:
            raise ValueError("as a library would") from error

    with pytest.raises(Exception, match="UDF failed") as caught:
        ray.data.range(4).map_batches(fail, batch_format="pyarrow").materialize()
    kind, line = explain(caught.value)
    assert (kind, line) == (FeaturePassError, said)


def test_a_task_ended_in_its_imports_takes_its_process_along(session: RaySession) -> None:
    session.start()

    # Half an import of torch cannot be taken up again by the next task.
    @ray.remote(max_retries=0)
    def ended() -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        actors.decode_step = interrupted  # type: ignore[assignment]
        actors.decode(pa.table({}), actors.PassSpec(None, (), None, None, None))  # type: ignore[arg-type]

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(ended.remote())


def test_posts_that_a_lost_worker_leaves_over_are_computed(
    session: RaySession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where pictures came in another order to the worker that took over, and with them other posts."""
    rows = [{"id": f"p{number}", "title": f"a red boat number {number}", "image": ""} for number in range(40)]
    features = {"families": ["perplexity"], "rows_per_block": 8}
    config = table_config(tmp_path / "run", write_table(tmp_path / "posts.csv", rows), features)
    real, passes = one_pass.run_pass, []

    def leaky(*arguments: Any) -> None:
        real(*arguments)
        passes.append(sorted((tmp_path / "run" / arguments[4]).rglob("*.parquet")))
        if len(passes) == 1:
            passes[0][0].unlink()

    monkeypatch.setattr(one_pass, "run_pass", leaky)
    run = run_features(config, session)
    assert len(passes) == 2
    assert "left over, of workers that were lost" in capsys.readouterr().err
    assert (exported(run, tmp_path)["perplexity_status"] == "ok").all()


def test_a_pass_that_makes_nothing_of_some_posts_ends(
    session: RaySession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = table_config(
        tmp_path / "run", write_table(tmp_path / "posts.csv", [{"id": "p", "title": "a boat", "image": ""}]),
        {"families": ["perplexity"]},
    )  # fmt: skip
    monkeypatch.setattr(one_pass, "run_pass", lambda *_: None)
    with pytest.raises(FeaturePassError, match="have no row; run again"):
        run_features(config, session)


def test_rays_own_error_of_a_second_run_plans_anew() -> None:
    error = RuntimeError("as Ray Data wraps it")
    error.__cause__ = StreamingGeneratorReplayInconsistentError("37 objects and not 40")
    assert explain(error)[0] is LostNodesError
