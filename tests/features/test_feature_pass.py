"""What is said where a pass fails in a worker, and what a task that Ray ends leaves to the next."""

from __future__ import annotations

import pyarrow as pa
import pytest
import ray

from smp_ray.errors import FamilyError, FeaturePassError
from smp_ray.features import actors
from smp_ray.features.feature_pass import explain
from smp_ray.ray_session import RaySession


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (SystemError("method: bad call flags"), "SystemError: method: bad call flags"),
        (MemoryError(), "MemoryError"),
        (FamilyError("letters: three"), "letters: three"),
    ],
)
def test_the_cause_is_said_and_not_what_ray_adds(session: RaySession, raised: Exception, said: str) -> None:
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
    # Half an import of torch cannot be taken up again by the next task.
    @ray.remote(max_retries=0)
    def ended() -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        actors.decode_step = interrupted  # type: ignore[assignment]
        actors.decode(pa.table({}), actors.PassSpec(None, (), None, None, None))  # type: ignore[arg-type]

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(ended.remote())
