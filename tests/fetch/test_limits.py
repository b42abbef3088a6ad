"""How many ask at once, and that nobody waits for others.

It tests `fetch/fetcher.py`, `fetch/turns.py`, `fetch/outcome.py`.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from smp_ray.config import ImagesConfig
from smp_ray.fetch import NO_ADDRESS, Fetcher
from tests.fetch.hostile import PICTURE, serving

SETTINGS = ImagesConfig(allow_private=True, timeout_s=3)


def seconds(fetcher: Fetcher, good: list[str], others: list[str]) -> float:
    """Seconds until all good ones are there, asked for together with others, which come first."""
    began, left = time.monotonic(), len(good)
    for place, found in fetcher.fetch([*others, *good]):
        if place >= len(others):
            assert found.data == PICTURE
            left -= 1
            if not left:
                return time.monotonic() - began
    raise AssertionError("not all came")


def test_a_slow_host_delays_only_its_own() -> None:
    ratios = []
    with serving(delay=0.02) as fast:
        good = [f"{fast.url}/{i}.jpg" for i in range(500)]
        fetcher = Fetcher(SETTINGS)
        seconds(fetcher, good, [])  # connections are there from now on
        for _ in range(3):  # others may use the cores for a while
            with serving() as slow:
                alone = seconds(fetcher, good, [])
                ratios.append(seconds(fetcher, good, [f"{slow.url}/drip/{i}.jpg" for i in range(100)]) / alone)
                assert 1 <= slow.most <= SETTINGS.per_host
    assert min(ratios) < 1.5, ratios


def test_no_host_gets_more_than_its_share_whoever_asks() -> None:
    with serving(delay=0.02) as one, serving(delay=0.02) as other:
        fetcher = Fetcher(SETTINGS.model_copy(update={"per_host": 5}))

        def ask(caller: int) -> int:
            uris = [f"{server.url}/{caller}/{i}.jpg" for i in range(30) for server in (one, other)]
            return sum(found.data == PICTURE for found in fetcher.fetch_all(uris))

        with ThreadPoolExecutor(4) as callers:
            assert sum(callers.map(ask, range(4))) == 240
        assert (one.most, other.most) == (5, 5)


def test_redirects_count_for_the_host_that_they_lead_to() -> None:
    with serving(delay=0.05) as target:
        redirects = [f"{target.url}/redirect/ok.jpg"] * 40
        found = Fetcher(SETTINGS.model_copy(update={"per_host": 3})).fetch_all(redirects)
        assert all(one.data == PICTURE for one in found)
        assert target.most == 3


def test_concurrency_bounds_all_hosts_together() -> None:
    with serving(delay=0.02) as one, serving(delay=0.02) as other:
        fetcher = Fetcher(SETTINGS.model_copy(update={"concurrency": 4}))
        fetcher.fetch_all([f"{server.url}/{i}.jpg" for i in range(20) for server in (one, other)])
        assert 2 <= max(one.most, other.most) <= 4


def test_waiting_for_a_turn_takes_nothing_of_the_deadline() -> None:
    with serving(delay=0.3) as server:
        fetcher = Fetcher(SETTINGS.model_copy(update={"per_host": 2, "timeout_s": 1.0}))
        began = time.monotonic()
        found = fetcher.fetch_all([f"{server.url}/{i}.jpg" for i in range(14)])
        assert {one.status for one in found} == {"ok"}
        assert time.monotonic() - began > 2  # twice the deadline of one


@pytest.mark.parametrize("path", ["status/503", "reset", "silent", "drip"])
def test_one_deadline_holds_with_all_tries(path: str) -> None:
    with serving() as server:
        began = time.monotonic()
        found = Fetcher(SETTINGS.model_copy(update={"timeout_s": 2.0})).fetch_all([f"{server.url}/{path}"])
        assert found[0].status == "unreachable"
        assert time.monotonic() - began < 2.5


def test_results_come_as_they_are_there_and_in_order_where_wanted() -> None:
    with serving() as server:
        fetcher = Fetcher(SETTINGS.model_copy(update={"timeout_s": 3.0}))
        uris = [f"{server.url}/silent", None, f"{server.url}/flaky/1", f"{server.url}/ok.jpg", ""]
        places = [place for place, _ in fetcher.fetch(uris)]
        assert sorted(places) == [0, 1, 2, 3, 4]
        assert places[-1] == 0
        found = fetcher.fetch_all(uris)
        assert [one.status for one in found] == ["unreachable", "no_image", "ok", "ok", "no_image"]
        assert found[1] == found[4] == NO_ADDRESS
        assert fetcher.fetch_all([]) == []


def test_who_leaves_early_keeps_no_turn() -> None:
    with serving() as server:
        fetcher = Fetcher(SETTINGS.model_copy(update={"per_host": 1, "timeout_s": 30.0}))
        asked = fetcher.fetch([None, f"{server.url}/silent", f"{server.url}/silent"])
        assert next(asked)[0] == 0
        asked.close()
        began = time.monotonic()
        assert fetcher.fetch_all([f"{server.url}/ok.jpg"])[0].status == "ok"
        assert time.monotonic() - began < 2


def test_a_fetcher_that_nobody_holds_ends_its_thread() -> None:
    def fetching() -> int:
        return sum(thread.name == "fetch" for thread in threading.enumerate())

    before = fetching()
    fetcher = Fetcher(SETTINGS)
    assert fetching() == before + 1
    del fetcher
    assert fetching() == before


def test_a_host_that_has_gone_is_asked_now_and_then_until_it_is_back() -> None:
    with serving() as server:
        fetcher = Fetcher(SETTINGS.model_copy(update={"timeout_s": 0.5, "per_host": 8}))
        gone = fetcher.fetch_all([f"{server.url}/drip/{i}.jpg" for i in range(300)])
        assert {found.status for found in gone} == {"unreachable"}
        assert sum(server.asked.values()) < 60
        assert any("last 16 pictures could not be had" in found.reason for found in gone)
        later = [fetcher.fetch_all([f"{server.url}/ok.jpg"])[0].status for _ in range(40)]
        assert later.index("ok") <= 16
        assert set(later[later.index("ok") :]) == {"ok"}


def test_who_takes_slowly_is_not_flooded() -> None:
    with serving() as server:
        outcomes = Fetcher(SETTINGS.model_copy(update={"per_host": 1024})).fetch(
            [f"{server.url}/{i}.jpg" for i in range(600)]
        )
        next(outcomes)
        time.sleep(1)
        asked = sum(server.asked.values())
        assert asked <= 128
        assert sum(1 for _ in outcomes) == 599
    assert sum(server.asked.values()) == 600
