"""The report without a browser: what is shown or said to be missing, the CSV files, escaping, size.

It also tests `report/adaptation.py`, `report/figures.py`, `report/gallery.py`,
`report/head.py`, `report/inputs.py`, `report/prediction.py`, `report/quality.py`, `report/search_section.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
import pytest
from scipy import stats

from smp_ray.config import build_config
from smp_ray.report import inputs
from smp_ray.report.head import tuned_in_words
from smp_ray.report.wording import number
from smp_ray.report.write import templates
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import read_table, write_table
from tests.report.worlds import LINK, SCRIPT, Written, write_world

SECTIONS = ("cleaning", "quality", "adaptation", "prediction", "sweep", "posts")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_world(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def html(written: Written) -> str:
    return written.report()


class Elements(HTMLParser):
    """Every element with its attributes, the texts outside of scripts and styles, and the figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.plots: dict[str, str] = {}
        self._inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = dict(attrs).get("data-for") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self.texts.append(data)
        elif self._inside:
            self.plots[self._inside] = self.plots.get(self._inside, "") + data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def test_every_section_is_there_and_nothing_is_said_to_be_missing(html: str) -> None:
    found = Elements(html)
    anchors = [attrs["id"] for tag, attrs in found.elements if tag == "section"]
    assert anchors == list(SECTIONS)
    assert 'class="absent"' not in html
    assert {"cleaning_by_interval", "title_perplexity", "map_image_after", "predicted_against_true", "parallel"} <= set(
        found.plots
    )


def test_title_says_that_the_data_is_synthetic(html: str, tmp_path: Path) -> None:
    assert "<title>Popularity report: demo (synthetic data)</title>" in html
    real = write_world(tmp_path, posts=12, training=False)
    real.posts.details["synthetic"] = False
    assert "synthetic" not in re.search("<title>(.*)</title>", real.report())[1]  # type: ignore[index]


def test_a_variant_that_is_no_result_is_told_from_the_tuned_model(html: str, written: Written) -> None:
    text = Elements(html).text
    assert "tuned_flattered: chosen on the <i>same</i> folds" in text
    assert text.count("Out of fold, the tuned model predicts with SRC 0.700") == 1
    assert text.count("the tuned model predicts") == 1
    chosen = pd.read_csv(written.folder / "chosen_by_fold.csv")
    assert chosen["trials"].tolist() == ["1 (80)", "2 (79)", "1 (78)"]


@pytest.mark.parametrize(
    ("mae", "low", "high", "said"),
    [(-0.3, -0.4, -0.2, ""), (0.1, -0.1, 0.3, "not clearly different from"), (0.3, 0.1, 0.5, "worse than")],
)
def test_a_model_that_is_no_better_than_the_mean_is_called_so(mae: float, low: float, high: float, said: str) -> None:
    pooled = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in ("src", "mae")}
    pair = {"variant": "tuned", "reference": "mean", "mae": {"value": mae, "low": low, "high": high}}
    text = tuned_in_words({"variants": {"tuned": {"pooled": pooled}}, "differences": [pair]}, "tuned", "mae")
    assert ("the mean of all posts" in text) == bool(said)
    assert f"{said} the mean of all posts (MAE +" in text or not said


def test_it_loads_nothing_from_elsewhere_and_embeds_plotly_once(html: str) -> None:
    for tag, attrs in Elements(html).elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = attrs.get(name) or ""
            allowed = value.startswith(("#", "data:image/jpeg;base64,")) or re.fullmatch(r"[a-z_]+\.csv", value)
            assert not value or allowed, (tag, name, value[:80])
    style = re.search("<style>(.*?)</style>", html, re.S)
    assert style is not None
    assert not re.search(r"@import|url\(|http", style[1])
    assert html.count("plotly.js v") == 1
    assert len(html.encode()) < 20e6


def test_every_link_to_numbers_leads_to_a_file_and_every_file_is_linked(html: str, written: Written) -> None:
    linked = {attrs["href"] for tag, attrs in Elements(html).elements if tag == "a" and "csv" in str(attrs["href"])}
    files = {path.name for path in written.folder.glob("*.csv")}
    assert linked == files


def test_every_figure_has_a_caption_and_a_text_alternative(html: str) -> None:
    plots = [attrs for tag, attrs in Elements(html).elements if attrs.get("class") == "plot"]
    assert len(plots) == html.count("<figcaption>") >= 15
    assert all(len(attrs["aria-label"] or "") > 20 for attrs in plots)


def test_markup_of_the_data_is_escaped_everywhere(html: str) -> None:
    found = Elements(html)
    for text in (SCRIPT, LINK):
        assert text in found.text  # as text, in the gallery
        assert text not in html
    assert "javascript:" not in " ".join(str(value) for _, attrs in found.elements for value in attrs.values())
    # Plotly takes <b>, <a> and more in its texts for markup, so they must be escaped there a second time.
    for name, plot in found.plots.items():
        assert "<" not in plot
        for shown in _strings(json.loads(plot)):
            bare = re.sub(r"<br>|<extra></extra>", "", shown)
            assert "<" not in bare, (name, shown)


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for entry in value.values() for text in _strings(entry)]
    if isinstance(value, list):
        return [text for entry in value for text in _strings(entry)]
    return [value] if isinstance(value, str) else []


def test_numbers_are_those_of_the_exported_data(html: str, written: Written) -> None:
    del html
    frame = _exported(written)
    rules = pd.read_csv(written.folder / "cleaning_rules.csv").set_index("rule")
    no_image = frame["clip_status"].eq("no_image") | frame["caption_status"].eq("no_image")
    assert rules.loc["no_image", "posts"] == no_image.sum() > 0
    assert rules.loc["camera_file_name", "posts"] == 1
    assert rules.loc["empty_title", "posts"] == frame["title"].isna().sum() == 1

    removed = no_image | frame["title"].isna() | frame["title"].isin(["DSC_0042", "😀😀"])
    kept = frame[~removed & frame["popularity"].notna()]
    found = pd.read_csv(written.folder / "correlations.csv")
    overall = found[found["scope"] == "overall"].set_index("measure")
    for measure in ("similarity_title_caption", "title_perplexity"):
        expected = stats.spearmanr(kept[measure], kept["popularity"], nan_policy="omit").statistic
        assert overall.loc[measure, "spearman"] == pytest.approx(expected, abs=1e-12)
        assert overall.loc[measure, "posts"] == len(kept)

    summary = pd.read_csv(written.folder / "measures_by_interval.csv")
    middle = summary[(summary["measure"] == "title_perplexity") & (summary["interval"] == "4 to 6")].iloc[0]
    inside = kept[(kept["popularity"] >= 4) & (kept["popularity"] < 6)]["title_perplexity"]
    assert middle["posts"] == len(inside)
    assert middle["median"] == pytest.approx(inside.median(), rel=1e-6)
    assert middle["q25"] == pytest.approx(inside.quantile(0.25), rel=1e-6)


def test_errors_are_those_of_the_predictions(html: str, written: Written) -> None:
    del html
    frame = _exported(written)
    error = pd.Series(written.out_of_fold, index=frame.index) - frame["popularity"]
    by_interval = pd.read_csv(written.folder / "error_by_interval.csv").set_index("group")
    inside = (frame["popularity"] >= 6) & (frame["popularity"] < 8)
    assert by_interval.loc["6 to 8", "posts"] == inside.sum()
    assert by_interval.loc["6 to 8", "mae"] == pytest.approx(error[inside].abs().mean())
    by_category = pd.read_csv(written.folder / "error_by_category.csv").set_index("group")
    assert by_category.loc["animal", "mae"] == pytest.approx(error[frame["category"] == "animal"].abs().mean())
    shown = pd.read_csv(written.folder / "predicted_against_true.csv")
    assert len(shown) == frame["popularity"].notna().sum()
    worst = pd.read_csv(written.folder / "gallery.csv").query("kind.str.startswith('Largest errors')")
    expected = frame["post_id"][error.abs().sort_values(ascending=False).index[:4]]
    assert worst["post_id"].tolist() == expected.tolist()


def _exported(written: Written) -> pd.DataFrame:
    """Posts and features joined by pandas alone."""
    frames = []
    for manifest in (written.posts, *written.store.values()):
        frames.append(pd.read_parquet(written.workspace.path(manifest.fragments[0].path)))
    joined = frames[0]
    for other in frames[1:]:
        joined = joined.merge(other.drop(columns="post_id"), on="row_id")
    return joined


def test_gallery_shows_thumbnails_and_survives_broken_images(html: str) -> None:
    pictures = [attrs["src"] for tag, attrs in Elements(html).elements if tag == "img"]
    assert pictures
    assert max(len(str(picture)) for picture in pictures) < 12_000
    assert "no image" in html


def test_undefined_src_is_said_to_be_so(html: str) -> None:
    row = re.search(r"<tr><td>mean</td>.*?</tr>", html)
    assert row is not None
    assert "undefined" in row[0]


def test_the_found_sentence_claims_nothing_where_the_interval_holds_zero(tmp_path: Path) -> None:
    written = write_world(tmp_path, posts=60, training=False)
    rng = np.random.default_rng(3)
    written.world.columns["popularity"] = rng.permutation(written.world.popularity).tolist()
    written.posts, _ = written.world.commit()
    html = written.report()
    found = re.search('<p class="found">(.*?)</p>', html)
    assert found is not None
    table = pd.read_csv(written.folder / "correlations.csv").query("scope == 'overall'").set_index("measure")
    assert table.loc["title_perplexity", "low"] <= 0 <= table.loc["title_perplexity", "high"]
    assert "perplexity of the title has no clear relation" in found[1]


@pytest.mark.parametrize(
    ("take_away", "sentence"),
    [
        (lambda w: w.store.pop("clip"), "there are no embeddings"),
        (
            lambda w: w.store.pop("perplexity"),
            "Not shown: perplexity of the title (the perplexity family is not configured or not computed)",
        ),
        (lambda w: w.store.clear(), "none is judged by its image"),
        (lambda w: w.used.pop("adapt"), "Only the embeddings as their model gives them"),
        (lambda w: w.used.update(tune=None), "There was no sweep"),
        (lambda w: w.used.pop("predict"), "There are no out-of-fold predictions"),
        (lambda w: w.used.pop("ablate"), "There is no ablation"),
        (lambda w: w.used.pop("splits"), "there are no folds"),
        (lambda w: w.used.clear(), "Nothing is measured yet"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, take_away: Callable[[Written], object], sentence: str) -> None:
    written = write_world(tmp_path, posts=40)
    take_away(written)
    html = written.report()
    assert sentence in html
    assert 'class="absent"' in html
    assert all(f'<section id="{anchor}">' in html for anchor in SECTIONS)


@pytest.mark.parametrize(("posts", "labels"), [(10, True), (10, False), (40, False)])
def test_few_posts_and_no_labels(tmp_path: Path, posts: int, labels: bool) -> None:
    written = write_world(tmp_path, posts=posts, labels=labels, training=labels)
    html = written.report()
    assert ("No post has a popularity" in html) == (not labels)
    assert (written.folder / "measures_by_interval.csv").exists() == labels
    assert "NaN" not in Elements(html).text


def test_where_no_rule_removes_a_post_no_empty_figure_is_drawn(tmp_path: Path) -> None:
    written = write_world(tmp_path, posts=20)
    assert 'id="cleaning_rules"' in written.report()
    off = {"min_characters": 0, "max_symbol_share": 1, "camera_names": [], "no_image": False, "bad_image": False}
    raw = written.config.model_dump(mode="json")
    raw["report"]["cleaning"] = {**off, "duplicates": False}
    written.config = build_config(raw)
    written.world.columns["title"] = [f"a boat {number}" for number in range(20)]
    written.posts, _ = written.world.commit()
    html = written.report()
    assert "0 of 20 posts (0.0%)" in html
    assert 'id="cleaning_rules"' not in html


def test_a_second_report_leaves_no_numbers_of_the_first(tmp_path: Path) -> None:
    written = write_world(tmp_path, posts=20)
    written.report()
    assert (written.folder / "parallel.csv").exists()
    written.used.clear()
    html = written.report()
    assert not (written.folder / "parallel.csv").exists()
    assert "parallel.csv" not in html
    assert not list(written.folder.glob("*.tmp"))


def test_the_same_data_gives_the_same_page(tmp_path: Path) -> None:
    written = write_world(tmp_path, posts=20)
    assert written.report() == written.report()


@pytest.mark.parametrize(
    ("value", "shown"), [(1234.0, "1,234"), (0.12345, "0.123"), (float("nan"), "–"), (None, "–"), (1e-5, "1e-05")]
)
def test_numbers_for_reading(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_a_figure_cannot_end_the_script_that_it_stands_in() -> None:
    figure = go.Figure(go.Scatter(y=[1.5, np.nan], text=["</script><!--", "a & b"]))
    written = templates().from_string("{{ plot | tojson }}").render(plot=figure)
    assert not set("<>&") & set(written)
    (trace,) = json.loads(written)["data"]
    assert trace["text"] == ["</script><!--", "a & b"]
    assert trace["y"] == [1.5, None]


def test_of_many_posts_whole_users_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MOST_POSTS", 60)
    world = write_world(tmp_path)
    page = Elements(world.report()).text
    numbers = re.search(r"posts (\d+) of a sample of the users, out of 120, of which", page)
    assert numbers is not None
    assert 20 < int(numbers[1]) < 100
    looked_at = inputs.Inputs(world.config, world.workspace, world.posts, world.store, world.used)
    users = set(looked_at.frame["user_id"])
    everyone = pd.Series(world.world.columns["user_id"])
    assert len(looked_at.frame) == everyone.isin(users).sum() == int(numbers[1])
    assert looked_at.predictions is not None
    assert set(looked_at.predictions["row_id"]) <= set(looked_at.frame["row_id"])
    nobody = pa.table({"user_id": pa.nulls(1000, pa.string()), "row_id": np.arange(1000)})
    assert 400 < len(inputs.sampled(nobody, 0.5)) < 600


def test_labelled_posts_that_nothing_was_learned_from_are_judged_apart(html: str, tmp_path: Path) -> None:
    assert "were not learned" not in html  # in this world the others have no label
    written = write_world(tmp_path)
    manifest = written.used["predict"]
    assert manifest is not None
    path = manifest.details["predictions"]
    table = read_table(written.workspace, path)
    source = ["model" if number % 3 == 0 else "out_of_fold" for number in range(len(table))]
    write_table(written.workspace, path, table.set_column(table.schema.get_field_index("source"), "source", [source]))
    page = written.report()
    own = table.to_pandas()[np.array(source) == "model"].dropna(subset=["popularity"])
    found = pd.read_csv(written.folder / "held_out.csv").iloc[0]
    assert found["mae"] == pytest.approx((own["prediction"] - own["popularity"]).abs().mean())
    assert f"{len(own)} labelled posts of" in page


def test_a_column_that_seems_to_hold_the_label_is_told(tmp_path: Path) -> None:
    written = write_world(tmp_path)
    manifest = written.used["matrix"]
    assert manifest is not None
    manifest.details["warnings"] = ["likes orders the posts as the label does: does it hold the label?"]
    assert "Mind: likes orders the posts" in written.report()


def test_a_model_is_compared_by_what_it_was_tuned_for() -> None:
    pooled = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in ("src", "mae", "mape")}
    errors = {name: {"value": at, "low": at - 0.01, "high": at + 0.01} for name, at in (("mae", 0.1), ("mape", -0.1))}
    pair = {"variant": "tuned", "reference": "lightgbm_default", **errors}
    text = tuned_in_words({"variants": {"tuned": {"pooled": pooled}}, "differences": [pair]}, "tuned", "mape")
    assert "better than LightGBM as it comes (MAPE -0.100" in text


def test_the_trend_of_a_log_scale_is_a_factor(tmp_path: Path) -> None:
    written = write_world(tmp_path, training=False)
    small = written.config.report.model_copy(update={"few_posts": 5})
    written.config = written.config.model_copy(update={"report": small})
    html = written.report()
    trend = pd.read_csv(written.folder / "trend.csv").set_index("measure")
    assert trend.loc["title_perplexity", "unit"] == "factor"
    assert 0 < trend.loc["title_perplexity", "slope"] < 1  # planted: it falls
    assert "is multiplied by" in html


def test_what_intervals_hold_is_said(tmp_path: Path) -> None:
    written = write_world(tmp_path)
    coverage = {"level": 0.9, "posts": 108, "covered": 0.889, "width": 4.25, "constant_width": 4.5}
    written.used["calibrate"] = Manifest("calibrate", "key", {}, details={"coverage": coverage})
    assert "90% held 88.9% of 108 labels" in " ".join(written.report().split())


def test_models_that_know_the_sample_world_alone_are_told_first(html: str, tmp_path: Path) -> None:
    assert "know the sample world alone" not in html  # that world is synthetic itself
    written = write_world(tmp_path, posts=40)
    written.posts.details["synthetic"] = False
    found = re.search('<p class="found">(.*?)</p>', written.report())
    assert found is not None
    assert found[1].startswith("Mind: the built-in models of caption")
