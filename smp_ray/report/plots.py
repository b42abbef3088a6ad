"""Figures as plotly.js takes them: plain dictionaries of data and layout, in the report's few colours."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from smp_ray.report.page import plain

MAIN, OTHER, REFERENCE = "#3572b0", "#d1782f", "#8a8f98"
#: Intervals with few posts, and the inside of boxes with enough and with few posts.
FAINT = "rgba(53,114,176,0.35)"
_FILL, _FAINT_FILL = "rgba(53,114,176,0.45)", "rgba(53,114,176,0.1)"
#: From few or unpopular to many or popular; readable without colour vision.
SCALE = "Viridis"


def layout(x: str | None = None, y: str | None = None, **more: Any) -> dict[str, Any]:
    """A layout with named axes; `more` replaces or adds keys (`xaxis` is merged)."""
    result: dict[str, Any] = {"showlegend": False}
    for key, name in (("xaxis", x), ("yaxis", y)):
        axis = {"title": {"text": name}} if name else {}
        result[key] = {**axis, **more.pop(key, {})}
    return {**result, **more}


def short_intervals(edges: Iterable[float]) -> list[str]:
    """The popularity intervals between inner edges in few characters: `<2`, `2–4`, `≥4`."""
    known = [f"{edge:g}" for edge in edges]
    return [f"<{known[0]}", *(f"{low}–{high}" for low, high in itertools.pairwise(known)), f"≥{known[-1]}"]


def _group_ticks(names: Iterable[str], frame: pd.DataFrame, by: str) -> dict[str, Any]:
    """An axis whose ticks are groups of posts and how many they are."""
    shown = [f"{plain(name)}<br>{posts:,}" for name, posts in zip(names, frame["posts"], strict=True)]
    return {
        "tickvals": list(range(len(frame))), "ticktext": shown, "tickangle": 0, "tickfont": {"size": 11},
        "title": {"text": f"{by}; below: number of posts"},
    }  # fmt: skip


def boxes(names: Iterable[str], frame: pd.DataFrame, y: str, log: bool = False) -> dict[str, Any]:
    """Quartiles and median of each interval; those of few posts are lighter.

    Args:
        names: of the intervals, in few characters.
        frame: posts, q25, median, q75, few; a row an interval.
        y: name of the vertical axis.
        log: whether that axis is logarithmic.
    """
    traces = []
    for few, colour, fill in ((False, MAIN, _FILL), (True, FAINT, _FAINT_FILL)):
        part = frame[(frame["few"] == few) & (frame["posts"] > 0)]
        if part.empty:
            continue
        places = [int(place) for place in np.flatnonzero(frame.index.isin(part.index))]
        q25, median, q75 = (part[name].tolist() for name in ("q25", "median", "q75"))
        traces.append(
            {
                "type": "box", "x": places, "q1": q25, "median": median, "q3": q75, "lowerfence": q25,
                "upperfence": q75, "marker": {"color": colour}, "line": {"color": colour}, "fillcolor": fill,
                "name": "few posts" if few else "quartiles and median", "boxpoints": False, "hoverinfo": "y",
                "width": 0.55,
            }
        )  # fmt: skip
    axis = {"type": "log"} if log else {}
    return {"data": traces, "layout": layout(None, y, xaxis=_group_ticks(names, frame, "popularity"), yaxis=axis)}


def bars(names: list[str], by: str, frame: pd.DataFrame, value: str, y: str, **axis: Any) -> dict[str, Any]:
    """A bar a group with its 95 % interval (`<value>_low`, `<value>_high`); those of few posts are lighter."""
    colours = [FAINT if few else MAIN for few in frame["few"]]
    trace = {
        "type": "bar", "x": list(range(len(frame))), "y": frame[value].tolist(), "marker": {"color": colours},
        "error_y": error_bars(frame, value), "width": 0.7,
        "customdata": [plain(name) for name in names],
        "hovertemplate": "%{customdata}: %{y}<extra></extra>",
    }  # fmt: skip
    return {"data": [trace], "layout": layout(None, y, xaxis=_group_ticks(names, frame, by), yaxis=axis)}


def ranked(
    names: Iterable[Any], values: list[float], x: str, colours: list[str] | str = MAIN,
    errors: dict[str, Any] | None = None, points: bool = False, **axis: Any,
) -> dict[str, Any]:  # fmt: skip
    """Horizontal bars (or points), the first at the top; names come from the data."""
    shown = [plain(name, 44) for name in names]
    places = list(range(len(shown)))
    trace: dict[str, Any] = {
        "x": values, "y": places, "marker": {"color": colours}, "customdata": shown,
        "hovertemplate": "%{customdata}: %{x}<extra></extra>",
    }  # fmt: skip
    trace |= {"type": "scatter", "mode": "markers"} if points else {"type": "bar", "orientation": "h"}
    if points:
        trace["marker"] = {"color": colours, "size": 9}
    if errors is not None:
        trace["error_x"] = errors
    vertical = {"tickvals": places, "ticktext": shown, "range": [len(shown) - 0.5, -0.5]}
    return {"data": [trace], "layout": layout(x, None, yaxis=vertical, xaxis=axis)}


def error_bars(frame: pd.DataFrame, value: str) -> dict[str, Any]:
    """Bars from `<value>_low` to `<value>_high` around the values; none where there is no interval."""
    low, high = f"{value}_low", f"{value}_high"
    return {
        "type": "data", "symmetric": False, "array": _lengths(frame[high] - frame[value]),
        "arrayminus": _lengths(frame[value] - frame[low]), "color": REFERENCE, "thickness": 1.4,
    }  # fmt: skip


def _lengths(values: pd.Series) -> list[float | str]:
    # Plotly draws a bar of length 0 for null, as if the number were certain, and none for what is no number.
    return ["none" if np.isnan(value) else float(value) for value in values]
