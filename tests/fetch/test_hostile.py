"""Every case of the hostile server becomes the status it should, within the deadline; also `fetch/web.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from smp_ray.config import ImagesConfig
from smp_ray.fetch import Fetched, Fetcher
from smp_ray.fetch.web import not_for_models, retry_after
from smp_ray.models.images import BadImage, decode
from tests.fetch.hostile import CASES, PICTURE, Case, Server, serving

SETTINGS = ImagesConfig(allow_private=True, timeout_s=3, max_bytes=2**20)


def decided(fetched: Fetched) -> tuple[str, str]:
    """Status and reason, decoding included."""
    if fetched.data is None:
        return fetched.status, fetched.reason
    try:
        decode(fetched.data, SETTINGS.max_pixels)
    except BadImage as error:
        return "bad_image", str(error)
    return "ok", ""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def fetched(server: Server) -> tuple[dict[Case, Fetched], float]:
    """All cases, asked for at once, and how many seconds that took."""
    began = time.monotonic()
    found = Fetcher(SETTINGS).fetch_all([case.url(server.url) for case in CASES])
    return dict(zip(CASES, found, strict=True)), time.monotonic() - began


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.path)[1:50])
def test_each_case(case: Case, fetched: tuple[dict[Case, Fetched], float]) -> None:
    outcome = fetched[0][case]
    status, reason = decided(outcome)
    assert (status, case.word in reason) == (case.status, True), reason
    assert (outcome.data is None) == (outcome.status != "ok")
    assert "SECRET" not in reason
    assert "\n" not in reason


def test_all_of_them_take_one_deadline(fetched: tuple[dict[Case, Fetched], float]) -> None:
    assert fetched[1] < 3 * SETTINGS.timeout_s  # two of them hang, maybe one after the other: their host is crowded
    assert len(CASES) > 50


def test_facts_are_not_asked_twice_and_failures_are(server: Server, fetched: object) -> None:
    assert server.asked["/status/404"] == server.asked["/status/403"] == server.asked["/noai.jpg"] == 1
    assert server.asked["/flaky/1"] == 3
    assert server.asked["/status/503"] >= 3
    assert server.asked["/reset"] >= 2


def test_retry_after_is_honoured(server: Server) -> None:
    fetcher = Fetcher(SETTINGS)
    began = time.monotonic()
    soon, late = fetcher.fetch_all([f"{server.url}/retry-after/1", f"{server.url}/retry-later"])
    assert soon.data == PICTURE
    first, second = server.times["/retry-after/1"]
    assert 1 <= second - first < 2
    assert (late.status, server.asked["/retry-later"]) == ("unreachable", 1)  # an hour is beyond the deadline
    assert time.monotonic() - began < 2.5


def test_what_retry_after_says() -> None:
    assert retry_after("7") == 7
    assert retry_after(None) == retry_after("") == retry_after("soon") == retry_after("-5") == retry_after("nan") == 0
    assert 25 < retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)) < 31


def test_the_user_agent_names_a_contact(server: Server) -> None:
    settings = SETTINGS.model_copy(update={"contact": "mailto:someone@example.org"})
    assert Fetcher(settings).fetch_all([f"{server.url}/contact.jpg"])[0].status == "ok"
    assert any(agent.startswith("smp_ray/") and "+mailto:someone@example.org" in agent for agent in server.agents)


def test_robots_tags() -> None:
    assert not_for_models(["noindex"]) == "noindex"
    assert not_for_models(["smp_ray: NoImageAI, nofollow"]) == "noimageai"
    assert not_for_models(["max-snippet: 3, noimageindex", "googlebot: noai"]) == "noimageindex"
    assert not_for_models(["googlebot: noai, noindex", "nofollow"]) == ""


def test_robots_tags_can_be_passed_over(server: Server) -> None:
    settings = SETTINGS.model_copy(update={"respect_robots_tag": False})
    assert Fetcher(settings).fetch_all([f"{server.url}/noai.jpg"])[0].data == PICTURE


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a photo.jpg").write_bytes(PICTURE)
    (tmp_path / "large.jpg").write_bytes(bytes(2**20 + 1))
    addresses = {
        str(tmp_path / "a photo.jpg"): ("ok", ""),
        f"file://{tmp_path}/a%20photo.jpg": ("ok", ""),
        str(tmp_path / "large.jpg"): ("bad_image", "max_bytes"),
        str(tmp_path / "none.jpg"): ("no_image", "no such file"),
        str(tmp_path): ("no_image", "not a file"),
        "/dev/zero": ("no_image", "not a file"),
        f"{tmp_path}/{'x' * 5000}": ("no_image", "bad path"),
        f"{tmp_path}/nul\0.jpg": ("no_image", "bad path"),
        "file://elsewhere/x.jpg": ("no_image", "host"),
    }
    for (status, word), found in zip(addresses.values(), Fetcher(SETTINGS).fetch_all([*addresses]), strict=True):
        assert found.status == status, found.reason
        assert word in found.reason
    only_web = Fetcher(SETTINGS.model_copy(update={"schemes": ("https",)}))
    assert "schemes" in only_web.fetch_all([str(tmp_path / "a photo.jpg")])[0].reason
