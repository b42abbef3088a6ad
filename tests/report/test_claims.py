"""What the paper claims is held against the posts: all three verdicts, and what was not measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from smp_ray.report.claims import HOLDS, NO_INTERVAL, REVERSED, UNCLEAR, UNKNOWN, judged
from tests.report.worlds import write_world


@pytest.mark.parametrize(
    ("found", "sign", "said"),
    [
        ((-0.3, -0.4, -0.2), -1, HOLDS), ((-0.3, -0.4, -0.2), 1, REVERSED), ((0.1, 0.05, 0.2), -1, REVERSED),
        ((-0.1, -0.2, 0.1), -1, UNCLEAR), ((None, None, None), -1, UNKNOWN), ((0.1, np.nan, np.nan), -1, NO_INTERVAL),
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


def test_a_group_is_judged_beside_some_columns_and_beside_all(tmp_path: Path) -> None:
    written = write_world(tmp_path)
    metrics = written.workspace.read_json("metrics.json")

    def pair(variant: str, reference: str, src: float, mae: float) -> dict[str, Any]:
        own = {name: {"value": at, "low": at - 0.01, "high": at + 0.01} for name, at in (("src", src), ("mae", mae))}
        for name in (variant, reference):
            metrics["variants"].setdefault(name, metrics["variants"]["metadata"])
        return {"variant": variant, "reference": reference, **own, "mape": own["mae"]}

    metrics["differences"] += [
        pair("metadata + adapted", "metadata", 0.3, -0.3), pair("metadata + adapted", "metadata + clip", 0.1, 0.1),
        pair("all", "all - adapted", -0.1, -0.1), pair("metadata + perplexity", "metadata", 0.0, -0.1),
    ]  # fmt: skip
    written.workspace.write_json(metrics, "metrics.json")
    written.report()
    verdicts = pd.read_csv(written.folder / "claims.csv").set_index("claim")["verdict"].to_dict()
    adapted = "Features adapted to popularity help to predict"
    assert (
        verdicts[f"{adapted}, in place of clip"]
        == verdicts[f"{adapted}, beside all other columns"]
        == ("SRC and MAE disagree")
    )
    assert verdicts["The group perplexity helps to predict, beside metadata"] == HOLDS


def test_what_cleaning_leaves_out_is_told(tmp_path: Path) -> None:
    written = write_world(tmp_path)
    page = written.report()
    scopes = pd.read_csv(written.folder / "correlations.csv").groupby("measure")["scope"].agg(list)
    assert (scopes.map(lambda found: found == ["overall", "within users", "before cleaning"])).all()
    assert "(without the low-quality posts)" in page
    claims = pd.read_csv(written.folder / "claims.csv").set_index("claim")
    assert "[" in claims.loc["Unpopular posts have poor text, popular ones carefully written text", "before_cleaning"]
    cleaning = pd.read_csv(written.folder / "cleaning_correlations.csv").set_index(["rules", "scope"])
    row = claims.loc["Low-quality titles are rarer among popular posts"]
    assert row["effect"].startswith(f"{cleaning.loc[('title', 'overall'), 'spearman']:+.2f}")
