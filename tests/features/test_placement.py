"""Placement: decided from the cluster's nodes, always fits node by node, never waits; `config/ray_section.py`."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smp_ray.config import FeaturesConfig, NodeGroup
from smp_ray.config.features_section import features_class
from smp_ray.errors import ConfigError
from smp_ray.families.keys import FamilyKey
from smp_ray.features.one_pass import without_gpu
from smp_ray.features.packing import Crew, Need, Room, pack
from smp_ray.features.placement import place
from smp_ray.features.pools import IO_CPUS, Placement
from smp_ray.resources import Node, described, nodes_of

ALL = ("caption", "clip", "perplexity")
HERE = (Node(4, cores=2),)


def settings(**given: Any) -> FeaturesConfig:
    return features_class().model_validate(given)


def assert_it_fits(plan: Placement) -> None:
    """By an own account of every node and GPU, in the order of the plan's own packing: the largest first."""
    rooms = [Room(node) for node in plan.nodes]
    for pool in sorted(
        plan.pools, key=lambda pool: (pool.need.gpus, pool.need.cpus, pool.need.memory_gb), reverse=True
    ):
        assert sum(count for _, count in pool.where) == pool.actors >= pool.least >= 1
        for number, count in pool.where:
            for _ in range(count):
                assert rooms[number].take(pool.need), (pool, plan.nodes[number])
    free = sum(math.floor((room.cpus + 1e-6) / IO_CPUS) for room in rooms)
    assert free >= 2 + plan.fetchers
    if plan.decode_cpus:
        assert any(room.cpus + 1e-6 >= plan.decode_cpus for room in rooms)
    for number, node in enumerate(plan.nodes):  # and by sums, which know nothing of how rooms are filled
        counts = [(pool.need, dict(pool.where).get(number, 0)) for pool in plan.pools]
        assert sum(need.cpus * count for need, count in counts) <= node.cpus + 1e-6
        assert sum(need.gpus * count for need, count in counts) <= node.gpus + 1e-6
        assert sum(need.memory_gb * count for need, count in counts) <= node.memory_gb + 1e-6


NODES = st.builds(
    Node,
    cpus=st.sampled_from([0, 1, 2, 4, 8, 16, 96]),
    gpus=st.sampled_from([0, 0, 1, 2, 4, 8]),
    memory_gb=st.sampled_from([4.0, 32.0, math.inf]),
    gpu=st.sampled_from(["", "A100", "L4"]),
    gpu_memory_gb=st.sampled_from([None, 16.0, 80.0]),
)


@st.composite
def sections(draw: st.DrawFn) -> dict[str, Any]:
    least = draw(st.integers(1, 3))
    return {
        "num_gpus": draw(st.sampled_from([None, None, 0, 0.25, 0.3, 0.5, 1, 2])),
        "num_cpus": draw(st.sampled_from([None, None, 0.5, 2])),
        "min_actors": least,
        "max_actors": draw(st.sampled_from([None, least, least + 2])),
        "memory_gb": draw(st.sampled_from([None, 3.0, 20.0])),
        "gpu_memory_gb": draw(st.sampled_from([None, 5.0, 30.0])),
        "gpu": draw(st.sampled_from(["", "", "A100"])),
    }


@hypothesis.settings(deadline=None, max_examples=300)  # a busy machine is no bad plan
@given(
    nodes=st.lists(NODES, min_size=0, max_size=8),
    kind=st.sampled_from(["auto", "spread", "colocated"]),
    families=st.sampled_from([ALL, (*ALL, "visual"), ("perplexity",), ("caption", "clip")]),
    workers=st.sampled_from([None, None, 1, 3]),
    own=st.tuples(sections(), sections(), sections()),
    remote=st.booleans(),
)
def test_a_plan_fits_node_by_node_or_is_refused_with_a_reason(
    nodes: list[Node], kind: str, families: tuple[str, ...], workers: int | None, own: Any, remote: bool
) -> None:
    given = settings(
        placement=kind, workers=workers, **dict(zip(("captioner", "clip", "perplexity"), own, strict=True))
    )
    try:
        plan = place(given, families, nodes, remote)
    except ConfigError as error:
        reason = r"features\.placement: .*(no node has room|of a GPU).*(this would fit: placement|No plan fits)"
        refused = re.match(reason, str(error))
    else:
        assert_it_is_as_asked(plan, given, families, workers)
        assert plan.beginning(nodes) is not None
        return
    assert refused


def assert_it_is_as_asked(
    plan: Placement, given: FeaturesConfig, families: tuple[str, ...], workers: int | None
) -> None:
    assert_it_fits(plan)
    assert [family for pool in plan.pools for family in pool.families] == list(families)
    for pool in plan.pools:
        section = given.section(pool.families[0])
        if plan.kind == "spread":
            assert section.min_actors <= pool.actors <= (section.max_actors or math.inf)
        elif workers:
            assert pool.actors == workers


@pytest.mark.parametrize(
    ("gpus", "nodes"), [(1, 1), (2, 1), (2, 2), (3, 1), (3, 3), (8, 1), (8, 2), (8, 4), (16, 2), (16, 4)]
)
def test_all_gpus_are_used(gpus: int, nodes: int) -> None:
    plan = place(settings(), ALL, [Node(8 * gpus / nodes, gpus // nodes)] * nodes)
    assert_it_fits(plan)
    used = sum(pool.actors * pool.need.gpus for pool in plan.pools)
    assert used == pytest.approx(gpus, rel=0.01), plan.describe()
    assert plan.pools[0].actors >= plan.pools[-1].actors, "what costs more has more"


def test_auto_says_why() -> None:
    plain = settings()
    assert place(plain, ALL, HERE).kind == "colocated"
    assert place(plain, ALL, [Node(32, 1)]).kind == "colocated"
    spread = place(plain, ALL, [Node(64, 4)] * 2)
    assert spread.kind == "spread"
    assert "8 GPUs for 3 models" in spread.describe()
    assert [pool.need.gpus for pool in spread.pools] == [1.0, 1.0, 1.0]
    assert [pool.actors for pool in spread.pools] == [6, 1, 1]


def test_a_third_model_on_two_gpus_shares_one() -> None:
    plan = place(settings(placement="spread"), ALL, [Node(8, 1), Node(8, 1)])
    assert [pool.need.gpus for pool in plan.pools] == [0.5, 0.5, 0.5]
    assert_it_fits(plan)


def test_known_memory_lets_models_share_a_gpu() -> None:
    known = {"captioner": {"gpu_memory_gb": 16}, "clip": {"gpu_memory_gb": 2}, "perplexity": {"gpu_memory_gb": 1}}
    plan = place(settings(**known), ALL, [Node(32, 4, gpu_memory_gb=80)])
    assert (plan.kind, plan.pools[0].actors, plan.pools[0].need.gpus) == ("colocated", 16, 0.25)
    assert "19 GB of models fit into a GPU of 80 GB" in plan.describe()
    plan = place(settings(**known), ALL, [Node(32, 4, gpu_memory_gb=18)])
    assert plan.kind == "spread"
    with pytest.raises(ConfigError, match=r"caption takes 16 GB of a GPU, and one has 8"):
        place(settings(**known), ALL, [Node(32, 4, gpu_memory_gb=8)])


def test_memory_and_kind_of_gpu_decide_where() -> None:
    nodes = [Node(16, memory_gb=8), Node(16, memory_gb=64)]
    plan = place(settings(captioner={"memory_gb": 16}), ALL, nodes)
    assert plan.pools[0].where == ((1, 4),)
    kinds = [Node(8, 2, gpu="L4"), Node(8, 2, gpu="A100")]
    plan = place(settings(placement="spread", captioner={"gpu": "A100"}), ("caption", "clip"), kinds)
    assert dict(plan.pools[0].where).keys() == {1}
    assert plan.pools[0].need.options["accelerator_type"] == "A100"
    with pytest.raises(
        ConfigError, match=r"no node has room .*GPU H100.*Without features\.captioner\.gpu this would fit"
    ):
        place(settings(placement="spread", captioner={"gpu": "H100"}), ("caption", "clip"), kinds)


def test_threads_of_an_actor_follow_its_own_cpus() -> None:
    cluster = [Node(0), Node(16), Node(4), Node(2)]
    (pool,) = place(settings(), ALL, cluster).pools
    assert (pool.threads, dict(pool.where).keys()) == (1, {1, 2, 3})
    assert pool.actors >= 20
    wide = place(settings(placement="spread", captioner={"num_cpus": 8}), ("caption", "clip"), cluster).pools[0]
    assert wide.threads == 8
    assert place(settings(), ALL, [Node(8, 1)]).pools[0].threads is None
    assert place(settings(device="cpu"), ALL, [Node(8, 1)]).pools[0].threads == 1
    assert (Node(4, cores=2).threads, Node(1, cores=2).threads) == (2, 1), "no more than Ray has CPUs for"


def test_a_family_without_a_model_takes_no_gpu() -> None:
    spread = place(settings(), (*ALL, "visual"), [Node(128, 3)])
    assert spread.kind == "spread"
    assert [pool.need.gpus for pool in spread.pools] == [1.0, 1.0, 1.0, 0.0]
    assert [pool.threads for pool in spread.pools][:3] == [None] * 3
    alone = place(settings(), ("visual",), [Node(16, 2)])
    assert (alone.kind, alone.pools[0].need.gpus) == ("colocated", 0)


def test_two_cores_get_two_single_threaded_workers_that_decode_themselves() -> None:
    plan = place(settings(), ALL, HERE)
    (pool,) = plan.pools
    assert (pool.actors, pool.initial, pool.threads, plan.decode_cpus) == (2, 2, 1, None)


def test_gpu_workers_leave_decoding_to_cpu_tasks() -> None:
    assert place(settings(), ALL, [Node(16, 1)]).decode_cpus
    assert place(settings(), ("perplexity",), [Node(16, 1)]).decode_cpus is None


def test_settings_win() -> None:
    given = settings(
        placement="spread", clip={"num_gpus": 0.25, "min_actors": 2, "max_actors": 3}, captioner={"num_gpus": 2}
    )
    caption, clip, _ = place(given, ALL, [Node(64, 4)]).pools
    assert (clip.need.gpus, clip.least, clip.actors) == (0.25, 2, 3)
    assert (caption.need.gpus, caption.actors) == (2, 1)


def test_what_cannot_fit_is_refused_with_the_nearest_that_does() -> None:
    with pytest.raises(ConfigError, match=r"clip: no node has room .*Without features\.clip\.num_cpus this would fit"):
        place(settings(placement="spread", clip={"num_cpus": 8}), ALL, HERE)
    with pytest.raises(ConfigError, match=r"clip: no node has room for actor 3 of at least 3 .* 2 × 8 CPUs, 1 GPU"):
        place(settings(clip={"min_actors": 3, "num_gpus": 1}), ("clip", "perplexity"), [Node(8, 1)] * 2)
    with pytest.raises(ConfigError, match=r"no nodes\. No plan fits: .*ray\.cluster"):
        place(settings(), ALL, [])
    with pytest.raises(ConfigError, match=r"has 0 CPUs\. No plan fits"):
        place(settings(), ALL, [Node(0)])
    with pytest.raises(ValueError, match="whole number"):
        settings(clip={"num_gpus": 1.5})


def test_a_cluster_that_grows_begins_with_what_is_there() -> None:
    gpus = [NodeGroup(nodes=8, cpus=16, gpus=1, gpu="A100")]
    full = nodes_of([NodeGroup(nodes=4, cpus=8), *gpus])
    assert described(full) == "4 × 8 CPUs; 8 × 16 CPUs, 1 GPU A100"
    plan = place(settings(), ALL, full)
    assert [pool.actors for pool in plan.pools] == [6, 1, 1]
    assert plan.beginning([Node(0), *full[:4], *full[4:6]]) is None
    some = plan.beginning(full[:9])
    assert some is not None
    assert [pool.initial for pool in some.pools] == [3, 1, 1]
    assert Counter(bundle.get("GPU") for bundle in plan.bundles)[1.0] == 8
    assert sum(bundle == {"CPU": IO_CPUS} for bundle in plan.bundles) == 2 + plan.fetchers
    # As many actors as may fetch are not needed to begin.
    fetching = place(settings(), ALL, nodes_of([NodeGroup(nodes=100, cpus=64), *gpus]), remote=True)
    assert fetching.fetchers > 800
    assert fetching.beginning(nodes_of([NodeGroup(nodes=2, cpus=64), NodeGroup(nodes=3, cpus=12, gpus=1)])) is not None


def test_a_crew_without_gpu_leaves_gpu_nodes_to_others() -> None:
    crews = [Crew("light", Need(1), least=4), Crew("heavy", Need(4, 1), least=1, seconds=1)]
    assert pack([Node(8, 1), Node(4)], crews) is None
    assert (dict(crews[0].where), dict(crews[1].where)) == ({1: 4}, {0: 1})


def test_a_hundred_gpus_are_planned_at_once() -> None:
    began = time.monotonic()
    plan = place(settings(), (*ALL, "visual"), [Node(96, 8)] * 13 + [Node(64)] * 200, remote=True)
    assert time.monotonic() - began < 5
    assert sum(pool.actors * pool.need.gpus for pool in plan.pools) == 104


def test_a_pass_begun_on_gpus_does_not_go_on_without_them() -> None:
    """Its dtypes were chosen for GPUs; on CPUs the same would take days, and nobody would know why."""
    section = settings().clip
    keys = {"clip": FamilyKey("clip", "key", {}, {}, {}, section.model_copy(update={"dtype": "float16"}))}
    with_gpus, without = (place(settings(), ["clip"], nodes) for nodes in ([Node(16, 1)], [Node(16)]))
    assert without_gpu(settings(), keys, with_gpus) == []
    assert without_gpu(settings(), keys, without) == ["clip"]
    asked_for = settings(clip={"dtype": "float16"})  # by the user, who gets it
    assert without_gpu(asked_for, keys, without) == []
