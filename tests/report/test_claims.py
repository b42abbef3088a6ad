"""What the paper claims is held against the posts: all three verdicts, and what was not measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from smp_ray.report.claims import HOLDS, REVERSED, UNCLEAR, UNKNOWN, judged
from tests.report.worlds import write_world


@pytest.mark.parametrize(
    ("found", "sign", "said"),
    [
        ((-0.3, -0.4, -0.2), -1, HOLDS), ((-0.3, -0.4, -0.2), 1, REVERSED), ((0.1, 0.05, 0.2), -1, REVERSED),
        ((-0.1, -0.2, 0.1), -1, UNCLEAR), ((None, None, None), -1, UNKNOWN), ((0.1, np.nan, np.nan), -1, UNKNOWN),
    ],
)  # fmt: skip
def test_a_verdict_needs_an_interval_without_zero(
    found: tuple[float | None, float | None, float | None], sign: int, said: str
) -> None:
    assert judged(*found, sign=sign) == said


def test_the_report_opens_with_the_claims(tmp_path: Path) -> None:
    written = write_world(tmp_path)
    page = written.report()
    table = pd.read_csv(written.folder / "claims.csv").set_index("claim")
    poor = table.loc["Unpopular posts have poor text, popular ones carefully written text"]
    assert poor["verdict"] == HOLDS  # planted in the world
    assert poor["effect"].startswith("-0.")
    adapted = table.loc["Features adapted to popularity help to predict"]
    assert (adapted["verdict"], adapted["effect"]) == (UNKNOWN, "–")  # this world's metrics have no such pair
    assert page.index("what the paper claims") < page.index('id="cleaning"')
    for claim in table.index:
        assert claim in page


def test_without_labels_nothing_is_claimed(tmp_path: Path) -> None:
    assert "what the paper claims" not in write_world(tmp_path, labels=False).report()
