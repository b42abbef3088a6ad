"""The report's kinds of figures as plotly objects, in its few colours; texts of the data are escaped with `plain`."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from smp_ray.report.wording import plain

MAIN, OTHER, REFERENCE = "#3572b0", "#d1782f", "#8a8f98"
#: Groups with few posts, and the inside of boxes with enough and with few posts.
FAINT = "rgba(53,114,176,0.35)"
_FILL, _FAINT_FILL = "rgba(53,114,176,0.45)", "rgba(53,114,176,0.1)"
#: From few or unpopular to many or popular; readable without colour vision.
SCALE = "Viridis"
_CLEAR, _RULE = "rgba(0,0,0,0)", "rgba(128,128,128,0.28)"
_AXIS = {"gridcolor": _RULE, "zerolinecolor": _RULE, "linecolor": _RULE, "automargin": True}
THEME = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 13}, "autosize": True, "showlegend": False,
        "margin": {"l": 60, "r": 16, "t": 34, "b": 50}, "hoverlabel": {"align": "left"}, "xaxis": _AXIS, "yaxis": _AXIS,
        "modebar": {"bgcolor": _CLEAR, "color": REFERENCE, "activecolor": MAIN},
        "colorway": [MAIN, OTHER, "#4c9a4e", "#b2474c", "#7d62a8", "#7f6a5f"],
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "title": {"text": ""}},
    }
)  # fmt: skip


def themed(figure: go.Figure, x: str | None = None, y: str | None = None, **layout: Any) -> go.Figure:
    """A figure in the report's look, which leaves the background to the page, with named axes."""
    clear = {"paper_bgcolor": _CLEAR, "plot_bgcolor": _CLEAR}
    return figure.update_layout(template=THEME, xaxis_title_text=x, yaxis_title_text=y, **clear, **layout)


def columns(frame: pd.DataFrame, value: str, by: str, y: str, **axis: Any) -> go.Figure:
    """A bar a row, named by its first column, from `value` with `<value>_low` and `_high`; of few posts it is lighter.

    `by` says what the rows are, `y` names the vertical axis, and `axis` is more of that.
    """
    bars = go.Bar(
        y=frame[value], marker_color=shades(frame), error_y=_error_bars(frame, value), width=0.7,
        customdata=frame.iloc[:, 0].map(plain), hovertemplate="%{customdata}: %{y}<extra></extra>",
    )  # fmt: skip
    return themed(go.Figure(bars), None, y, xaxis=_groups(frame, by), yaxis=axis)


def boxes(frame: pd.DataFrame, y: str, log: bool = False) -> go.Figure:
    """Quartiles and median of each row's popularity interval; those of few posts are lighter."""
    figure = go.Figure()
    for few, part in frame.reset_index(drop=True).query("posts > 0").groupby("few"):
        figure.add_box(
            x=part.index.tolist(), q1=part["q25"], median=part["median"], q3=part["q75"], lowerfence=part["q25"],
            upperfence=part["q75"], marker_color=FAINT if few else MAIN, fillcolor=_FAINT_FILL if few else _FILL,
            name="few posts" if few else "quartiles and median", boxpoints=False, hoverinfo="y", width=0.55,
        )  # fmt: skip
    return themed(figure, None, y, xaxis=_groups(frame, "popularity"), yaxis_type="log" if log else "linear")


def shades(frame: pd.DataFrame) -> list[str]:
    """A colour a group, lighter for few posts."""
    return np.where(frame["few"], FAINT, MAIN).tolist()


def _groups(frame: pd.DataFrame, by: str) -> dict[str, Any]:
    """An axis whose ticks are groups of posts and how many they are."""
    names = frame["interval"] if "interval" in frame else frame["group"]
    shown = [re.sub("(.*) and above", r"≥\1", name.replace("below ", "<").replace(" to ", "–")) for name in names]
    return {
        "tickvals": list(range(len(frame))), "tickangle": 0, "tickfont": {"size": 11},
        "ticktext": [f"{plain(name)}<br>{posts:,}" for name, posts in zip(shown, frame["posts"], strict=True)],
        "title": {"text": f"{by}; below: number of posts"},
    }  # fmt: skip


def ranked(
    names: Iterable[Any], values: pd.Series, x: str, colours: list[str] | str = MAIN,
    interval: pd.DataFrame | None = None, points: bool = False, **axis: Any,
) -> go.Figure:  # fmt: skip
    """Horizontal bars (or points), the first at the top, of one colour or one each; NaN is left out.

    `interval` is a frame with `<values.name>_low` and `_high`, `axis` more of the horizontal axis, which is named `x`.
    """
    shown = [plain(name, 44) for name in names]
    trace = {
        "x": values, "y": list(range(len(shown))), "marker": {"color": colours}, "customdata": shown,
        "hovertemplate": "%{customdata}: %{x}<extra></extra>",
        "error_x": None if interval is None else _error_bars(interval, str(values.name)),
    }  # fmt: skip
    kind = go.Scatter(**trace, mode="markers", marker_size=9) if points else go.Bar(**trace, orientation="h")
    return themed(go.Figure(kind), x, None, xaxis=axis, yaxis=rows(shown))


def rows(names: list[str]) -> dict[str, Any]:
    """A vertical axis of rows 0, 1, … with these names, the first at the top."""
    return {"tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.5, -0.5]}


def _error_bars(frame: pd.DataFrame, value: str) -> dict[str, Any]:
    """From `<value>_low` to `<value>_high`; none where these are NaN, as plotly draws no bar for what is no number."""
    return {
        "type": "data", "symmetric": False, "color": REFERENCE, "thickness": 1.4,
        "array": frame[f"{value}_high"] - frame[value], "arrayminus": frame[value] - frame[f"{value}_low"],
    }  # fmt: skip
