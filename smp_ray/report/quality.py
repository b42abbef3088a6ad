"""Inconsistency and text quality (Figure 4 of the paper): each measure by popularity interval, and its correlation."""

from __future__ import annotations

import numpy as np
import pandas as pd

from smp_ray.analysis.intervals import OVERALL, correlations, measures_by_interval, popularity_intervals, trend
from smp_ray.families.base import Measure
from smp_ray.families.registry import families, find
from smp_ray.report import page, plots
from smp_ray.report.inputs import Inputs, records


def quality(inputs: Inputs, kept: pd.Series) -> page.Section:
    """The section, on the labelled posts that cleaning kept.

    Args:
        inputs: the workspace's data.
        kept: bool, on the index of `inputs.frame`.
    """
    section = page.Section("quality", "Inconsistency and text quality")
    section.add(*_missing(inputs))
    every = inputs.frame[inputs.frame["popularity"].notna()]
    if every.empty:
        section.add(page.absent("No post has a popularity, so no measure can be held against it."))
        return section
    cleaned = every[kept.loc[every.index]]
    if cleaned.empty:
        section.add(page.absent("Cleaning removes every labelled post; all of them are shown here instead."))
        cleaned = every
    known = inputs.measured(cleaned)
    constant = [name for name in known if len(cleaned) > 1 and cleaned[name].nunique() == 1]
    if constant:
        labels = ", ".join(inputs.measures[name].label for name in constant)
        section.add(page.absent(f"Not shown, as all posts have the same: {labels}."))
    measures = [name for name in known if name not in constant]
    if not measures:
        section.add(page.absent("No labelled post has a value of any measure."))
        return section
    settings = inputs.config.report
    resamples = inputs.resamples(len(cleaned))
    intervals = popularity_intervals(cleaned["popularity"], settings.edges)
    names = plots.short_intervals(settings.edges)
    users, few, seed = cleaned["user_id"], settings.few_posts, settings.seed
    found = inputs.publish("correlations", correlations(cleaned, measures, users, resamples, seed))
    summary = inputs.publish("measures_by_interval", measures_by_interval(cleaned, measures, intervals, few))
    slopes = inputs.publish("trend", trend(cleaned, measures, intervals, users, resamples, few, seed))
    section.add(
        page.text(" ".join([f"{len(cleaned):,} labelled posts that cleaning kept.", *_about(inputs)])),
        _correlation_table(inputs, found, resamples),
        page.grid(_figure(summary, slopes, name, inputs.measures[name], names, few) for name in measures),
        page.numbers("The trends of all measures with their intervals:", "trend"),
    )
    return section


def _missing(inputs: Inputs) -> list[str]:
    """A line for each family that has measures which no post has a value of."""
    known, lines = inputs.measured(inputs.frame), []
    for name, family in families().items():
        lacking = [c.measure.label for c in family.columns if c.measure is not None and c.name not in known]
        stored = name in inputs.store
        if lacking and (stored or family.by_default):
            why = "no post has a value" if stored else f"the {name} family is not configured or not computed"
            lines.append(page.absent(f"Not shown: {', '.join(lacking)} ({why})."))
    return lines


def _about(inputs: Inputs) -> list[str]:
    """How to read the measures of the stored families."""
    return [about for name in inputs.store if (about := find(name).about)]


def _correlation_table(inputs: Inputs, found: pd.DataFrame, resamples: int) -> str:
    rows = [
        (
            inputs.measures[row["measure"]].label, row["scope"],
            page.with_interval(row["spearman"], row["low"], row["high"], signed=True),
            relation(row["spearman"], row["low"], row["high"]), row["posts"], row["users"],
        )
        for row in records(found)
    ]  # fmt: skip
    return page.table(
        ["measure", "scope", "Spearman correlation with popularity", "so it", "posts", "users"], rows,
        f"95 % intervals from {resamples:,} bootstrap resamples of users. Within users, only a user's own posts are "
        "held against each other, so that who posts does not count.",
        "correlations",
    )  # fmt: skip


def relation(value: float, low: float, high: float) -> str:
    """What a correlation and its interval say, in two words."""
    if np.isnan([value, low, high]).any():
        return "is undefined" if np.isnan(value) else "has no interval"
    if low <= 0 <= high:
        return "has no clear relation"
    return "rises with popularity" if value > 0 else "falls with popularity"


def _figure(
    summary: pd.DataFrame, slopes: pd.DataFrame, column: str, measure: Measure, names: list[str], few: int
) -> str:
    label, log = measure.label, measure.scale == "log"
    frame = summary[summary["measure"] == column].reset_index(drop=True)
    slope = slopes[slopes["measure"] == column].iloc[0]
    plot = plots.boxes(names, frame, f"{label} (log scale)" if log else label, log=log)
    change = (
        f"Trend: the median changes by {page.with_interval(slope['slope'], slope['low'], slope['high'], signed=True)} "
        "from one interval to the next (Theil-Sen, 95 % bootstrap interval over users)."
        if not np.isnan(slope["slope"])
        else f"Trend: undefined, fewer than two intervals have {few} posts."
    )
    medians = ", ".join(
        f"{interval} {page.number(median)}"
        for interval, median in zip(frame["interval"], frame["median"], strict=True)
        if not np.isnan(median)
    )
    return page.figure(
        column, plot,
        f"{label[0].upper()}{label[1:]} by popularity interval: boxes from the lower to the upper quartile, the line "
        f"in them is the median. Lighter: fewer than {few} posts. {change}",
        f"Boxes of the {label} by popularity; medians: {medians}", "measures_by_interval",
    )  # fmt: skip


def overall(found: pd.DataFrame, measure: str) -> pd.Series:
    """The overall correlation of one measure."""
    return found[(found["measure"] == measure) & (found["scope"] == OVERALL)].iloc[0]
