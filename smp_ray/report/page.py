"""The page: sections, figures, tables and notes as HTML. Every text given to these functions is escaped here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from typing import Any

#: Plotly's settings of every figure: it follows its box, and nothing of it leads elsewhere.
PLOT_CONFIG = {"responsive": True, "displaylogo": False, "showSendToCloud": False, "showEditInChartStudio": False}


@dataclass
class Section:
    """One section of the page: a heading, what it says, and its blocks of HTML."""

    anchor: str
    title: str
    blocks: list[str] = field(default_factory=list)

    def add(self, *blocks: str) -> None:
        """Append blocks of HTML, as this module's functions return them."""
        self.blocks += blocks

    def html(self) -> str:
        """The section as HTML."""
        return f'<section id="{self.anchor}"><h2>{escape(self.title)}</h2>\n' + "\n".join(self.blocks) + "\n</section>"


def text(content: str, kind: str = "") -> str:
    """A paragraph; `kind` is a class of the stylesheet (`note`, `found`)."""
    return f"<p{_kind(kind)}>{escape(content)}</p>"


def heading(content: str) -> str:
    """A heading within a section."""
    return f"<h3>{escape(content)}</h3>"


def absent(why: str) -> str:
    """What stands where a part of the report has nothing to show."""
    shown = re.sub("`([^`]*)`", r"<code>\1</code>", escape(why))
    return f'<p class="absent">{shown}</p>'


def numbers(content: str, csv: str) -> str:
    """A remark with a link to its numbers."""
    return f'<p class="note">{escape(content)} {csv_link(csv)}</p>'


def grid(blocks: Iterable[str], kind: str = "grid") -> str:
    """Blocks side by side where the page is wide enough: `grid` of equal widths, `row` each as wide as it is."""
    return f'<div class="{kind}">' + "\n".join(blocks) + "</div>"


def csv_link(name: str) -> str:
    """A link to the numbers that lie beside the page."""
    return f'<a class="csv" href="{escape(name)}.csv">{escape(name)}.csv</a>'


def figure(name: str, plot: dict[str, Any], caption: str, alternative: str, csv: str, height: int = 380) -> str:
    """An interactive figure with its caption, its text alternative and a link to its numbers.

    Args:
        name: unique on the page.
        plot: `data` and `layout` as plotly.js takes them; texts in it escaped with `plain`.
        caption: what one sees, and what its intervals are.
        alternative: the figure in a sentence, for those who do not see it.
        csv: name of the CSV file without its ending.
        height: pixels.
    """
    return (
        f'<figure><div class="plot" id="{escape(name)}" role="img" style="height:{height}px" '
        f'aria-label="{escape(alternative)}"></div>\n'
        f'<script type="application/json" data-for="{escape(name)}">{json_for_html(plot)}</script>\n'
        f"<figcaption>{escape(caption)} {csv_link(csv)}</figcaption></figure>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "", csv: str = "") -> str:
    """A table that scrolls sideways on a narrow screen; numbers stand to the right."""
    lines = ['<div class="scroll"><table>']
    if caption or csv:
        link = f" {csv_link(csv)}" if csv else ""
        lines.append(f"<caption>{escape(caption)}{link}</caption>")
    lines.append("<thead><tr>" + "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head) + "</tr></thead>")
    lines.append("<tbody>")
    lines += ["<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows]
    lines.append("</tbody></table></div>")
    return "\n".join(lines)


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, one under the other."""
    lines = [f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs]
    return "<dl>" + "\n".join(lines) + "</dl>"


def _cell(cell: Any) -> str:
    if isinstance(cell, str):
        kind = ' class="number"' if re.fullmatch(r"[-+]?[\d,.]+ ?%?|–", cell) else ""
        return f"<td{kind}>{escape(cell)}</td>"
    return f'<td class="number">{escape(number(cell))}</td>'


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def plain(content: Any, limit: int = 80) -> str:
    """A text of the data inside a figure, where plotly would take `<b>` or `<a href>` for markup."""
    shown = " ".join(str(content).split())
    return escape(shown if len(shown) <= limit else shown[: limit - 1] + "…", quote=False)


def number(value: Any, digits: int = 3) -> str:
    """A number for reading: whole numbers with thousands, others to `digits` significant places, `–` where missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{digits}f}" if abs(value) >= 10**-digits else f"{value:.1g}"


def counted(count: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def with_interval(value: Any, low: Any, high: Any, digits: int = 3, signed: bool = False) -> str:
    """`0.729 [0.701, 0.755]`; `undefined` where there is no value."""
    sign = "+" if signed else ""
    if value is None or math.isnan(value):
        return "undefined"
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{value:{sign}.{digits}f}"
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def json_for_html(value: Any) -> str:
    """JSON that may stand inside a `<script>`: it holds no `<`, and null where a number is not finite."""
    written = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return written.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return value


def render(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title: of the page; synthetic data says so here.
        lead: blocks above the table of contents.
        sections: in their order.
    """
    from plotly.offline import get_plotlyjs

    contents = "".join(f'<li><a href="#{part.anchor}">{escape(part.title)}</a></li>' for part in sections)
    files = resources.files("smp_ray.report")
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("style.css", "draw.js"))
    body = "\n".join(part.html() for part in sections)
    drawn = 'class="plot"' in body
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1>\n" + "\n".join(lead) + "</header>\n"
        f'<nav aria-label="contents"><ol>{contents}</ol></nav>\n{body}\n</main>\n'
        + (f"<script>{get_plotlyjs()}</script>\n" if drawn else "")
        + f"<script>const PLOT_CONFIG = {json.dumps(PLOT_CONFIG)};\n{script}</script>\n</body>\n</html>\n"
    )
