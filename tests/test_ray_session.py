"""What `ray_session` knows of a cluster without starting anything."""

from __future__ import annotations

import pytest

from smp_ray.config import CPUS_PER_TRIAL, NodeGroup, RayConfig
from smp_ray.errors import SmpRayError
from smp_ray.ray_session import RaySession


def test_a_task_that_no_node_holds_is_refused_with_the_setting_that_asks_for_it() -> None:
    session = RaySession(RayConfig(address="auto", cluster=(NodeGroup(cpus=0.5), NodeGroup(cpus=0.75))))
    assert session.cpus_of(0.75) == 0.75
    with pytest.raises(SmpRayError, match=r"takes 4 CPUs, .* has 0\.75; lower training\.tune\.cpus_per_trial$"):
        session.cpus_of(4, CPUS_PER_TRIAL)
    with pytest.raises(SmpRayError, match=r"takes 1 CPUs, .* has 0\.75; it needs a larger one$"):
        session.cpus_of(1)
