"""A cluster that grows is asked for what is needed until it is there."""

from __future__ import annotations

import pytest

from smp_ray import resources
from smp_ray.errors import SmpRayError
from smp_ray.resources import Node, grown


def test_it_is_asked_again_while_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Data, once it has run, asks for its own every 20 s, and so takes back what was asked for before."""
    asked: list[list[dict[str, float]]] = []
    looks = iter([(), (), (Node(4),)])
    monkeypatch.setattr(resources, "_LOOK", 0.0)
    monkeypatch.setattr(resources, "live_nodes", lambda: next(looks))
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda bundles: asked.append(bundles))
    with grown([{"CPU": 4.0}], lambda nodes: len(nodes) > 0, 60, "a test"):
        assert asked == [[{"CPU": 4.0}]] * 3
    assert asked[-1] == []


def test_one_that_does_not_grow_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_LOOK", 0.0)
    monkeypatch.setattr(resources, "live_nodes", lambda: ())
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda bundles: None)
    with pytest.raises(SmpRayError, match=r"ray\.wait_s"), grown([], lambda _: False, 0.01, "a test"):
        pass
