"""Cleaning (Figure 2 of the paper): what each rule removes, and the share removed by popularity."""

from typing import Any

import pandas as pd

from smp_ray.analysis.intervals import popularity_intervals
from smp_ray.analysis.quality_rules import ANY_RULE, cleaning_by_interval, cleaning_rules, reasons
from smp_ray.families.base import IMAGE
from smp_ray.families.registry import find
from smp_ray.report import figures
from smp_ray.report.inputs import Inputs

_WORDS = {
    "empty_title": "empty title", "short_title": "too short a title", "camera_file_name": "camera file name",
    "no_letters": "no letters", "mostly_symbols": "mostly symbols or emoji",
    "duplicate_title": "title given before by the same user", "no_image": "no image", "bad_image": "broken image",
}  # fmt: skip


def cleaning(inputs: Inputs) -> tuple[dict[str, Any], pd.Series]:
    """What the section shows, and which posts are kept for the analysis: bool, on the index of `inputs.frame`."""
    settings, frame = inputs.config.report, inputs.frame
    statuses = [f"{name}_status" for name in inputs.store if IMAGE in find(name).reads]
    found = reasons(frame, settings.cleaning, statuses)
    removed = found.any(axis=1)
    rules = inputs.publish("cleaning_rules", cleaning_rules(found))
    rules = rules.assign(name=[_WORDS.get(rule, rule) for rule in rules["rule"]])
    alone = rules[rules["rule"] != ANY_RULE]
    shown: dict[str, Any] = {
        "removed": int(removed.sum()), "rules": rules, "alone": alone,
        "by_image": not {"no_image", "bad_image"}.isdisjoint(found.columns),
        "rules_plot": figures.ranked(alone["name"], alone["posts"], "posts removed"),
    }  # fmt: skip
    if inputs.labelled:
        intervals = popularity_intervals(frame["popularity"], settings.edges)
        shares = cleaning_by_interval(
            found, intervals, settings.edges, frame["user_id"], inputs.resamples(len(frame)), settings.few_posts,
            settings.seed,
        )  # fmt: skip
        shown["shares"] = inputs.publish("cleaning_by_interval", shares)
        shown["shares_plot"] = figures.columns(
            shares, "share", "popularity", "share removed", tickformat=".0%", rangemode="tozero"
        )
    return shown, ~removed
