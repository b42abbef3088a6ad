"""Numbers and texts in words, for the template and for figures."""

import re
from collections.abc import Iterable
from html import escape
from typing import Any

import pandas as pd


def plain(content: Any, limit: int = 80) -> str:
    """A text of the data inside a figure, where plotly would take `<b>` or `<a href>` for markup."""
    shown = " ".join(str(content).split())
    return escape(shown if len(shown) <= limit else shown[: limit - 1] + "…", quote=False)


def number(value: Any, digits: int = 3) -> str:
    """A number for reading: whole numbers with thousands, others to `digits` significant places, `–` where missing."""
    if value is None or pd.isna(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{digits}f}" if abs(value) >= 10**-digits else f"{value:.1g}"


def counted(count: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Iterable[Any], values: Iterable[float], unit: str = "", digits: int = 3) -> str:
    """`first 0.5, second 0.3`, without those that are missing: a figure for those who do not see it."""
    known = ((name, value) for name, value in zip(names, values, strict=True) if not pd.isna(value))
    return ", ".join(f"{name} {number(value, digits)}{unit}" for name, value in known)


def known_sign(value: float | None, low: float | None, high: float | None) -> str:
    """What an interval tells of a value's sign: `positive`, `negative`, `unclear`, `no interval` or `undefined`."""
    if value is None or pd.isna(value):
        return "undefined"
    if low is None or high is None or pd.isna([low, high]).any():
        return "no interval"
    if low <= 0 <= high:
        return "unclear"
    return "positive" if value > 0 else "negative"


_RELATIONS = {
    "undefined": "is undefined", "no interval": "has no interval", "unclear": "has no clear relation",
    "positive": "rises with popularity", "negative": "falls with popularity",
}  # fmt: skip
_VERDICTS = {"unclear": "no clear difference", "positive": "worse", "negative": "better"}


def relation(value: float, low: float, high: float) -> str:
    """What a correlation and its interval say, in two words."""
    return _RELATIONS[known_sign(value, low, high)]


def verdict(value: float | None, low: float | None, high: float | None) -> str:
    """What a difference of errors and its interval say."""
    sign = known_sign(value, low, high)
    return _VERDICTS.get(sign, sign)


def numeric(cell: Any) -> bool:
    """Whether a table's cell stands to the right."""
    return not isinstance(cell, str) or bool(re.fullmatch(r"[-+]?[\d,.]+ ?%?|–", cell))
