"""Placement: the memory of a GPU, the kind of GPU and a node's memory are kept to, or the plan is refused."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smp_ray.errors import ConfigError
from smp_ray.features.placement import place
from smp_ray.resources import Node
from tests.features.test_placement import ALL, NODES, assert_it_fits, sections, settings

#: Two models of which each fills a GPU of 40 GB, and a small one.
LARGE = {"captioner": {"gpu_memory_gb": 40}, "clip": {"gpu_memory_gb": 40}, "perplexity": {"gpu_memory_gb": 2}}
HALVES = {"captioner": {"gpu_memory_gb": 20}, "clip": {"gpu_memory_gb": 20}, "perplexity": {"gpu_memory_gb": 10}}


@pytest.mark.parametrize("kind", ["auto", "colocated"])
def test_models_that_one_gpu_does_not_hold_do_not_share_it(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"caption\+clip\+perplexity takes 82 GB of a GPU, and one has 40"):
        place(settings(placement=kind, **LARGE), ALL, [Node(32, 1, gpu_memory_gb=40)])
    some = LARGE | {"perplexity": {}}
    with pytest.raises(ConfigError, match=r"takes 80 GB of a GPU, and one has 40"):
        place(settings(placement=kind, **some), ALL, [Node(32, 1, gpu_memory_gb=40)])


def test_workers_that_share_a_gpu_have_a_part_of_it() -> None:
    nodes = [Node(32, 1, gpu_memory_gb=80)]
    with pytest.raises(ConfigError, match=r"takes 50 GB of a GPU, and its 0\.5 GPU has 40.*Without features\.workers"):
        place(settings(placement="colocated", workers=2, **HALVES), ALL, nodes)
    assert place(settings(placement="colocated", workers=1, **HALVES), ALL, nodes).pools[0].need.gpus == 1


def test_a_model_fits_into_its_part_of_a_gpu() -> None:
    nodes = [Node(32, 2, gpu_memory_gb=40)]
    with pytest.raises(ConfigError, match=r"caption takes 40 GB of a GPU, and its 0\.5 GPU has 20"):
        place(settings(placement="spread", **LARGE), ALL, nodes)
    own = {"captioner": {"gpu_memory_gb": 60, "num_gpus": 2}}
    assert place(settings(placement="spread", **own), ("caption",), nodes).pools[0].need.gpus == 2
    thirds = {key: {"gpu_memory_gb": 27} for key in LARGE}
    plan = place(settings(placement="spread", **thirds), ALL, [Node(32, 1, gpu_memory_gb=81)])
    assert [pool.need.gpus for pool in plan.pools] == [0.3333] * 3


def test_auto_spreads_what_one_gpu_does_not_hold() -> None:
    plan = place(settings(**HALVES), ALL, [Node(32, 2, gpu_memory_gb=40)])
    assert (plan.kind, [pool.need.gpus for pool in plan.pools]) == ("spread", [0.5] * 3)
    assert "50 GB of models do not fit into a GPU of 40 GB together" in plan.describe()


def test_a_small_gpu_of_another_kind_is_no_bound() -> None:
    kinds = [Node(16, 1, gpu="A100", gpu_memory_gb=80), Node(16, 1, gpu="L4", gpu_memory_gb=24)]
    given = HALVES | {"captioner": {"gpu_memory_gb": 40, "gpu": "A100"}}
    plan = place(settings(**given), ALL, kinds)
    assert (plan.kind, plan.pools[0].where) == ("colocated", ((0, 1),))
    pair = {"captioner": {"gpu_memory_gb": 40, "gpu": "A100"}, "perplexity": {"gpu_memory_gb": 10}}
    plan = place(settings(placement="spread", **pair), ("caption", "perplexity"), kinds)
    assert [dict(pool.where).keys() for pool in plan.pools] == [{0}, {1}]


@pytest.mark.parametrize("kind", ["auto", "spread", "colocated"])
@pytest.mark.parametrize(("own", "wanted"), [({"gpu": "A100"}, "1 GPU A100"), ({"num_gpus": 2}, "2 GPU")])
def test_a_family_that_asks_for_a_gpu_never_runs_on_a_cpu(kind: str, own: dict[str, Any], wanted: str) -> None:
    config = settings(placement=kind, captioner=own)
    (key,) = own
    for nodes in ([Node(8)], [Node(0, 2, gpu="A100"), Node(8)]):
        with pytest.raises(
            ConfigError, match=rf"caption: no node has room for {wanted}; .*captioner\.{key} this would"
        ):
            place(config, ("caption",), nodes)


def test_a_kind_of_gpu_that_no_node_has_is_refused() -> None:
    config = settings(captioner={"gpu": "A100"})
    with pytest.raises(ConfigError, match=r"no node has room for 1 GPU A100; the cluster has 8 CPUs, 2 GPUs L4\. With"):
        place(config, ("caption",), [Node(8, 2, gpu="L4")])
    with pytest.raises(ConfigError, match=r"no node has room for 1 GPU A100"):
        place(config, ("caption",), [Node(8, 2)])
    assert place(settings(device="cpu", captioner={"gpu": "A100"}), ("caption",), [Node(8)]).device == "cpu"


@pytest.mark.parametrize("kind", ["auto", "spread", "colocated"])
def test_a_local_gpu_is_of_any_kind(kind: str) -> None:
    plan = place(settings(placement=kind, captioner={"gpu": "A100"}), ("caption",), [Node(8, 1, cores=8)])
    assert (plan.device, plan.pools[0].need.gpus) == ("gpu", 1)
    assert "accelerator_type" not in plan.pools[0].need.options, "Ray would wait for it"
    with pytest.raises(ConfigError, match=r"no node has room for 1 GPU A100"):
        place(settings(placement=kind, captioner={"gpu": "A100"}), ("caption",), [Node(8, cores=8)])


def test_memory_of_this_machine_bounds_its_workers() -> None:
    def local(memory_gb: float, **given: Any) -> Any:
        return place(settings(captioner={"memory_gb": 3}, **given), ALL, [Node(8, cores=8, memory_gb=memory_gb)])

    assert [local(memory).pools[0].actors for memory in (64, 12, 8, 3)] == [8, 4, 2, 1]
    assert local(8).pools[0].threads == 4, "fewer workers take more threads"
    assert_it_fits(local(8, placement="spread"))
    too_little = r"no node has room for actor 1 \(.*, 3 GB each; a node has at most 2 GB\)"
    with pytest.raises(ConfigError, match=rf"{too_little}.*Without features\.captioner\.memory_gb this would fit"):
        local(2)
    with pytest.raises(ConfigError, match=r"actor 3 of at least 3 .*at most 8 GB.*Without features\.workers this"):
        local(8, workers=3)


@hypothesis.settings(deadline=None, max_examples=300)  # a busy machine is no bad plan
@given(
    nodes=st.lists(NODES, min_size=1, max_size=4),
    kind=st.sampled_from(["auto", "spread", "colocated"]),
    own=st.tuples(sections(), sections(), sections()),
)
def test_a_plan_keeps_to_what_a_family_asks_for(nodes: list[Node], kind: str, own: Any) -> None:
    config = settings(placement=kind, **dict(zip(("captioner", "clip", "perplexity"), own, strict=True)))
    try:
        plan = place(config, ALL, nodes)
    except ConfigError:
        return
    known = all(node.gpu_memory_gb for node in nodes if node.gpus)
    for pool in plan.pools:
        models = [section for family in pool.families if (section := config.section(family)).num_gpus != 0]
        if not pool.need.gpus:
            assert not any(section.gpu or section.num_gpus for section in models)
            continue
        there = [nodes[number] for number, _ in pool.where]
        assert {section.gpu for section in models} - {""} <= {node.gpu for node in there}
        size = sum(section.gpu_memory_gb or 0.0 for section in models)
        assert not known or size <= min(node.gpu_memory_gb or 0.0 for node in there) * (pool.need.gpus + 1e-3)
