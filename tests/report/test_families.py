"""What the report shows follows from the families: those of the store, one from outside, and one without values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from smp_ray.families.base import IMAGE, Column, Family, FamilySettings, Measure
from smp_ray.store.parquet import read_table, write_table
from tests.report.worlds import Written, write_world


class Brightness(Family):
    """A family that this project knows nothing of, as a package of one's own would add it."""

    name = "brightness"
    Settings = FamilySettings
    reads = (IMAGE,)
    columns = (
        Column(
            "mean_brightness",
            pa.float32(),
            measure=Measure(
                "brightness of the picture", "bright", scale="log", topic="light", falling="so popular ones are darker"
            ),
        ),
        Column("own_number", pa.float32()),
    )
    about = "Brightness is the mean of all pixels."

    def __init__(self, settings: Any, device: str, threads: int | None) -> None:
        """Nothing to load."""

    def compute(self, *inputs: list[Any]) -> dict[str, list[float]]:
        """Of each picture."""
        return {"mean_brightness": [float(image.mean()) for image in inputs[0]]}

    @classmethod
    def transform(cls, settings: Any) -> Any:
        """Never called: the tests write the columns themselves."""
        raise NotImplementedError


@pytest.fixture
def installed(install_family: Callable[[type[Family]], None]) -> None:
    install_family(Brightness)


@pytest.mark.usefixtures("installed")
def test_a_family_from_outside_is_shown_everywhere(tmp_path: Path) -> None:
    written = write_world(tmp_path, posts=60, training=False)
    light = pa.array(20 - np.nan_to_num(np.array(written.world.columns["popularity"], float)), pa.float32())
    statuses = ["no_image"] * 7 + ["ok"] * 53
    written.store = {"brightness": written.add_family("brightness", {"mean_brightness": light}, statuses)}
    html = written.report()
    assert '<div class="plot" id="mean_brightness"' in html
    assert "brightness of the picture (log scale)" in html
    assert "Brightness is the mean of all pixels." in html
    assert "the brightness of the picture falls with popularity, so popular ones are darker (Spearman -1.00" in html
    assert "<h3>Largest brightness of the picture</h3>" in html
    assert "<h3>Smallest brightness of the picture</h3>" in html
    assert "bright 1" in html
    assert "<td>features: brightness</td>" in html
    assert "own_number" not in html
    measures = {"mean_brightness"}
    for name in ("correlations", "measures_by_interval", "trend"):
        assert set(pd.read_csv(written.folder / f"{name}.csv")["measure"]) == measures
    assert measures < set(pd.read_csv(written.folder / "gallery.csv").columns)
    rules = pd.read_csv(written.folder / "cleaning_rules.csv").set_index("rule")
    assert rules.loc["no_image", "posts"] == 7


@pytest.mark.usefixtures("installed")
def test_a_family_that_nobody_asked_for_is_not_said_to_be_missing(tmp_path: Path) -> None:
    html = write_world(tmp_path, posts=30).report()
    assert "brightness of" not in html
    assert "brightness family" not in html
    assert 'class="absent"' not in html


def test_models_are_named_where_a_family_has_one(tmp_path: Path) -> None:
    written = write_world(tmp_path, posts=12, training=False)
    written.store["perplexity"].models = {"perplexity": {}}
    html = written.report()
    assert "<dt>caption model</dt><dd>embedded, weights 0123456789ab</dd>" in html
    assert "perplexity model" not in html


def test_what_is_not_described_has_no_description(tmp_path: Path) -> None:
    written = write_world(tmp_path, posts=20, training=False)
    assert '<div class="description">caption ' in written.report()
    assert "caption" in pd.read_csv(written.folder / "gallery.csv")
    written.store.pop("caption")
    assert 'class="description"' not in written.report()
    assert "caption" not in pd.read_csv(written.folder / "gallery.csv")


def test_the_next_measure_speaks_for_a_topic_whose_first_has_no_values(tmp_path: Path) -> None:
    written = write_world(tmp_path, posts=60, training=False)
    html = written.report()
    assert "the similarity of title and caption " in _found(html)
    assert "similarity of image" not in _found(html)
    assert "Least consistent title and caption" in html
    _empty(written, "clip", "similarity_title_caption", "similarity_image_caption")
    html = written.report()
    assert "Not shown: similarity of title and caption, similarity of image and caption (no post has a value)." in html
    assert "the similarity of image and title " in _found(html)
    assert "Least consistent image and title" in html
    assert "Least consistent title and caption" not in html


def _found(html: str) -> str:
    return html.split('<p class="found">')[1].split("</p>")[0]


def _empty(written: Written, family: str, *columns: str) -> None:
    """Take the values of some columns away."""
    path = written.store[family].fragments[0].path
    table = read_table(written.workspace, path)
    for name in columns:
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.field(name), pa.nulls(len(table), table.field(name).type))
    write_table(written.workspace, path, table)


@pytest.mark.usefixtures("installed")
def test_a_measure_that_is_the_same_for_all_posts_is_said_not_drawn(tmp_path: Path) -> None:
    written = write_world(tmp_path, posts=60, training=False)
    light = pa.array([128.0] * 60, pa.float32())
    written.store = {"brightness": written.add_family("brightness", {"mean_brightness": light}, ["ok"] * 60)}
    html = written.report()
    assert "Not shown, as all posts have the same: brightness of the picture." in html
    assert '<div class="plot" id="mean_brightness"' not in html
