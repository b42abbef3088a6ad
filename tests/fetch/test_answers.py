"""When to stop because too much is unreachable."""

from __future__ import annotations

from smp_ray.fetch import NO_ADDRESS, Answers, Fetched
from smp_ray.schema import NO_IMAGE, UNREACHABLE

LOST, GONE = Fetched(None, UNREACHABLE, "a.example: timeout"), Fetched(None, NO_IMAGE, "b.example: HTTP 404")


def noted(share: float | None, *fetched: tuple[Fetched, int]) -> str | None:
    answers = Answers(share)
    for one, count in fetched:
        for _ in range(count):
            answers.note(one)
    return answers.stop()


def test_it_stops_above_the_share_and_says_why() -> None:
    line = noted(0.5, (GONE, 20), (LOST, 80), (Fetched(b"x"), 10))
    assert line is not None
    assert line.startswith("of the last 110 pictures asked for, 80 unreachable, 20 no_image, 10 ok (80 x a.example: ti")
    assert "features.images.stop_after_unreachable is 0.5" in line
    assert "\n" not in line


def test_it_goes_on() -> None:
    assert noted(0.5, (LOST, 99)) is None  # too few to judge
    assert noted(0.5, (LOST, 50), (GONE, 50)) is None  # not more than the share
    assert noted(None, (LOST, 1000)) is None
    assert noted(0.5, (LOST, 400), (GONE, 1000)) is None  # the last thousand count
    assert noted(0.5, (LOST, 99), (NO_ADDRESS, 5000)) is None  # nobody was asked


def test_a_late_outage_counts() -> None:
    assert noted(0.5, (Fetched(b"x"), 100_000), (LOST, 501)) is not None
