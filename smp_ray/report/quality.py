"""Inconsistency and text quality (Figure 4 of the paper): each measure by popularity interval, and its correlation."""

from __future__ import annotations

import numpy as np
import pandas as pd

from smp_ray.analysis.intervals import OVERALL, correlations, measures_by_interval, popularity_intervals, trend
from smp_ray.report import page, plots
from smp_ray.report.inputs import SIMILARITIES, Inputs, records

#: Names of the measures in words.
MEASURES = {
    "similarity_title_caption": "similarity of title and caption",
    "similarity_image_title": "similarity of image and title",
    "similarity_image_caption": "similarity of image and caption",
    "title_perplexity": "perplexity of the title",
}


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
    measures = [name for name in MEASURES if name in cleaned and cleaned[name].notna().any()]
    if not measures:
        section.add(page.absent("No labelled post has a similarity or a perplexity."))
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
        page.text(
            f"{len(cleaned):,} labelled posts that cleaning kept. Similarity is the cosine of two CLIP embeddings: "
            "the lower, the more image and text disagree. Perplexity is the language model's surprise at the title: "
            "the higher, the less it reads like ordinary text."
        ),
        _correlation_table(found, resamples),
        page.grid(_measure(summary, slopes, measure, names, few) for measure in measures),
        page.numbers("The trends of all measures with their intervals:", "trend"),
    )
    return section


def _missing(inputs: Inputs) -> list[str]:
    lacking = []
    if "clip" not in inputs.families:
        lacking.append("Similarities are not shown: the clip family is not configured or not computed.")
    elif "caption" not in inputs.families:
        lacking.append(
            f"{', '.join(MEASURES[name] for name in SIMILARITIES if 'caption' in name)} are not shown: "
            "the caption family is not configured or not computed."
        )
    if "perplexity" not in inputs.families:
        lacking.append("Perplexity is not shown: the perplexity family is not configured or not computed.")
    return [page.absent(f"{line[0].upper()}{line[1:]}") for line in lacking]


def _correlation_table(found: pd.DataFrame, resamples: int) -> str:
    rows = [
        (
            MEASURES[row["measure"]], row["scope"],
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


def _measure(summary: pd.DataFrame, slopes: pd.DataFrame, measure: str, names: list[str], few: int) -> str:
    name = MEASURES[measure]
    frame = summary[summary["measure"] == measure].reset_index(drop=True)
    slope = slopes[slopes["measure"] == measure].iloc[0]
    is_perplexity = measure == "title_perplexity"
    plot = plots.boxes(names, frame, f"{name} (log scale)" if is_perplexity else name, log=is_perplexity)
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
        measure, plot,
        f"{name[0].upper()}{name[1:]} by popularity interval: boxes from the lower to the upper quartile, the line in "
        f"them is the median. Lighter: fewer than {few} posts. {change}",
        f"Boxes of the {name} by popularity; medians: {medians}", "measures_by_interval",
    )  # fmt: skip


def overall(found: pd.DataFrame, measure: str) -> pd.Series | None:
    """The overall correlation of one measure; None where it was not taken."""
    rows = found[(found["measure"] == measure) & (found["scope"] == OVERALL)]
    return None if rows.empty else rows.iloc[0]
