"""Placement: decided from the cluster, always fits, never waits in silence."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smp_ray.config import FeaturesConfig
from smp_ray.config.features_section import features_class
from smp_ray.errors import ConfigError
from smp_ray.features.placement import IO_CPUS, Placement, Resources, place

ALL = ("caption", "clip", "perplexity")


def settings(**given: Any) -> FeaturesConfig:
    return features_class().model_validate(given)


def least_cpus(placement: Placement) -> float:
    pools = sum(pool.min_actors * pool.num_cpus for pool in placement.pools)
    return pools + 2 * IO_CPUS + (placement.decode_cpus or 0)


@hypothesis.settings(deadline=None)  # a busy machine is no bad plan
@given(
    kind=st.sampled_from(["auto", "spread", "colocated"]),
    families=st.sampled_from([ALL, ("perplexity",), ("caption", "clip")]),
    cpus=st.integers(2, 1000),
    gpus=st.integers(0, 64),
)
def test_every_plan_fits(kind: str, families: tuple[str, ...], cpus: int, gpus: int) -> None:
    placement = place(settings(placement=kind), families, Resources(cpus, gpus, cores=min(cpus, 2)))
    assert least_cpus(placement) <= cpus + 1e-6
    assert sum(pool.min_actors * pool.num_gpus for pool in placement.pools) <= gpus + 1e-6
    assert [family for pool in placement.pools for family in pool.families] == list(families)
    assert all(pool.num_cpus > 0 and pool.max_actors >= pool.min_actors for pool in placement.pools)


def test_auto_says_why() -> None:
    plain = settings()
    assert place(plain, ALL, Resources(4, 0, cores=2)).kind == "colocated"
    assert place(plain, ALL, Resources(32, 1)).kind == "colocated"
    spread = place(plain, ALL, Resources(128, 8))
    assert spread.kind == "spread"
    assert "8 GPUs for 3 models" in spread.describe()
    assert [pool.num_gpus for pool in spread.pools] == [1.0, 1.0, 1.0]
    assert all(pool.max_actors == 8 for pool in spread.pools)


def test_a_family_without_a_model_takes_no_gpu() -> None:
    spread = place(settings(), (*ALL, "visual"), Resources(128, 3))
    assert spread.kind == "spread"
    assert [pool.num_gpus for pool in spread.pools] == [1.0, 1.0, 1.0, 0.0]
    assert [pool.threads for pool in spread.pools][:3] == [None] * 3
    alone = place(settings(), ("visual",), Resources(16, 2, cores=None))
    assert (alone.kind, alone.pools[0].num_gpus) == ("colocated", 0)


def test_two_cores_get_two_single_threaded_workers_that_decode_themselves() -> None:
    placement = place(settings(), ALL, Resources(4, 0, cores=2))
    (pool,) = placement.pools
    assert (pool.max_actors, pool.threads, placement.decode_cpus) == (2, 1, None)


def test_gpu_workers_leave_decoding_to_cpu_tasks() -> None:
    assert place(settings(), ALL, Resources(16, 1)).decode_cpus
    assert place(settings(), ("perplexity",), Resources(16, 1)).decode_cpus is None


def test_settings_win() -> None:
    given = settings(
        placement="spread", clip={"num_gpus": 0.25, "min_actors": 2, "max_actors": 3}, captioner={"num_gpus": 2}
    )
    caption, clip, _ = place(given, ALL, Resources(64, 4)).pools
    assert (clip.num_gpus, clip.min_actors, clip.max_actors) == (0.25, 2, 3)
    assert (caption.num_gpus, caption.max_actors) == (2, 2)


def test_what_cannot_fit_is_refused_before_it_starts() -> None:
    with pytest.raises(ConfigError, match=r"at least 2\.6664 GPUs and the cluster has 2"):
        place(settings(placement="spread", clip={"min_actors": 2}), ALL, Resources(64, 2))
    with pytest.raises(ConfigError, match=r"CPUs and the cluster has 4"):
        place(settings(placement="spread", clip={"num_cpus": 8}), ALL, Resources(4, 0, cores=2))
