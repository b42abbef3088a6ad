"""The page in a real browser: headless Chromium from disk, with no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import NAMES, Page, chromium, executable
from tests.report.worlds import LINK, SCRIPT, write_world

pytestmark = pytest.mark.skipif(
    executable() is None, reason=f"none of {', '.join(NAMES)} is installed (apt-get install chromium)"
)
_DRAWN = """[...document.querySelectorAll('.plot')].map(box => [
  box.id,
  box.classList.contains('js-plotly-plot') && box.data.length > 0,
  box.querySelectorAll('.main-svg').length > 0,
  box.querySelectorAll('.trace, .gl-container canvas, .points path, .parcoords-lines, .scatterlayer path').length,
])"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    written = write_world(tmp_path_factory.mktemp("report"))
    written.report()
    with chromium() as opened:
        opened.go(written.folder / "index.html")
        yield opened


def _errors(page: Page) -> list[object]:
    found: list[object] = []
    for method, params in page.events:
        thrown = method == "Runtime.exceptionThrown"
        logged = method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert")
        entry = method == "Log.entryAdded" and params["entry"]["level"] == "error"
        if thrown or logged or entry or method == "Page.javascriptDialogOpening":
            found.append((method, params))
    return found


def test_every_figure_is_drawn_without_an_error_or_a_request(page: Page) -> None:
    drawn = page.evaluate(_DRAWN)
    assert len(drawn) >= 15
    assert [name for name, plotly, svg, marks in drawn if not (plotly and svg and marks)] == []
    assert _errors(page) == []
    asked = [params["request"]["url"] for method, params in page.events if method == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_3d_maps_are_drawn_by_webgl(page: Page) -> None:
    shown = page.evaluate(
        """[...document.querySelectorAll('[id^=map_] canvas')]
        .map(canvas => !!(canvas.getContext('webgl2') || canvas.getContext('webgl')))"""
    )
    assert len(shown) >= 4
    assert all(shown)
    assert page.evaluate("document.body.innerText.includes('WebGL is not supported')") is False


def test_a_figure_answers_to_hovering(page: Page) -> None:
    place = page.evaluate(
        """(() => { const bar = document.querySelectorAll('#cleaning_by_interval_image .point path')[2];
        bar.scrollIntoView({block: 'center'}); const box = bar.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2]; })()"""
    )
    assert page.evaluate("document.querySelectorAll('#cleaning_by_interval_image .hoverlayer text').length") == 0
    page.point_at(*place)
    page.until("document.querySelectorAll('#cleaning_by_interval_image .hoverlayer text').length > 0")
    assert "%" in page.evaluate("document.querySelector('#cleaning_by_interval_image .hoverlayer').textContent")


def test_markup_in_a_title_is_shown_as_text_and_never_run(page: Page) -> None:
    titles = page.evaluate("[...document.querySelectorAll('.post .title')].map(e => e.textContent)")
    assert SCRIPT in titles
    assert LINK in titles
    assert page.evaluate("document.querySelectorAll('.post script, .post a, .post b, .plot a[href]').length") == 0
    assert _errors(page) == []


@pytest.mark.parametrize("title", [SCRIPT, LINK])
def test_markup_in_a_hover_label_is_shown_as_text(page: Page, title: str) -> None:
    box = "document.getElementById('predicted_against_true')"
    escaped = title.replace("<", "&lt;").replace(">", "&gt;")[:24]
    at = page.evaluate(f"{box}.data[1].text.findIndex(text => text.startsWith({escaped!r}))")
    assert at >= 0
    # Points lie over each other, so plotly is told which one is pointed at.
    page.evaluate(f"void Plotly.Fx.hover({box}, [{{curveNumber: 1, pointNumber: {at}}}])")
    layer = f"{box}.querySelector('.hoverlayer')"
    page.until(f"{layer}.textContent.includes({title[:24]!r})")
    assert page.evaluate(f"{layer}.querySelectorAll('a, script, image, [style*=bold]').length") == 0
    assert _errors(page) == []


def test_markup_in_axes_is_shown_as_text(page: Page) -> None:
    for figure in ("error_by_category", "parallel"):
        shown = page.evaluate(f"document.getElementById('{figure}').textContent")
        assert ("<b>cat</b>" in shown) or ("<i>gbdt</i>" in shown)
    # A group of one user has no interval, so there is no bar, not one of length 0.
    bars = "document.querySelectorAll('#error_by_category .xerror').length"
    assert page.evaluate(bars) == 3


def test_a_phone_shows_it_without_scrolling_sideways(page: Page) -> None:
    page.resize(390, 800)
    page.until("document.documentElement.scrollWidth <= 390")  # figures follow their boxes one after the other
    assert page.evaluate("document.querySelector('#cleaning_rules .main-svg').getBoundingClientRect().width") > 300
    page.resize(1100, 900)


def test_ten_posts_without_labels(tmp_path: Path, page: Page) -> None:
    written = write_world(tmp_path, posts=10, labels=False)
    written.report()
    page.go(written.folder / "index.html")
    assert [name for name, *shown in page.evaluate(_DRAWN) if not all(shown)] == []
    assert _errors(page) == []
