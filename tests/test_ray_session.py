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


def test_a_trial_that_this_machine_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smp_ray.machine.cores", lambda: 2)
    session = RaySession(RayConfig(address="local"))
    assert session.cpus_of(2) == 4, "all logical CPUs"
    with pytest.raises(SmpRayError, match=r"takes 3 CPUs, .* has 2; lower training\.tune\.cpus_per_trial$"):
        session.cpus_of(3, CPUS_PER_TRIAL)


@pytest.mark.parametrize(("given", "address"), [("", None), ("local", None), ("10.0.0.1:6379", "10.0.0.1:6379")])
def test_an_address_that_is_empty_is_none(given: str, address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", given)
    assert RaySession(RayConfig()).address == address
