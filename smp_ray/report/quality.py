"""Cleaning (Figure 2 of the paper), and the measures of the posts that it keeps by popularity (Figure 4)."""

from typing import Any

import pandas as pd

from smp_ray.analysis.intervals import correlations, measures_by_interval, popularity_intervals, trend
from smp_ray.analysis.quality_rules import ANY_RULE, cleaning_by_interval, cleaning_rules, reasons
from smp_ray.families.registry import families, find, looking
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
    statuses = [f"{name}_status" for name in looking(inputs.store)]
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


def quality(inputs: Inputs, kept: pd.Series) -> dict[str, Any]:
    """What the section shows, on the labelled posts that are `kept`, bool on the index of `inputs.frame`."""
    labelled = inputs.frame["popularity"].notna()
    posts = inputs.frame[labelled & kept] if (labelled & kept).any() else inputs.frame[labelled]
    known = inputs.measured(posts)
    constant = [name for name in known if len(posts) > 1 and posts[name].nunique() == 1]
    measures = [name for name in known if name not in constant]
    shown: dict[str, Any] = {
        "missing": _missing(inputs), "posts": posts, "all_removed": labelled.any() and not (labelled & kept).any(),
        "constant": [inputs.measures[name].label for name in constant], "measures": [],
        "about": [about for name in inputs.store if (about := find(name).about)],
    }  # fmt: skip
    if not measures:
        return shown
    settings = inputs.config.report
    users, few, seed, edges = posts["user_id"], settings.few_posts, settings.seed, settings.edges
    resamples = shown["resamples"] = inputs.resamples(len(posts))
    intervals = popularity_intervals(posts["popularity"], edges)
    shown["correlations"] = inputs.publish("correlations", correlations(posts, measures, users, resamples, seed))
    summary = inputs.publish("measures_by_interval", measures_by_interval(posts, measures, intervals, edges, few))
    slopes = inputs.publish("trend", trend(posts, measures, intervals, users, resamples, few, seed))
    for name, slope in zip(measures, slopes.to_dict("records"), strict=True):
        measure, frame = inputs.measures[name], summary[summary["measure"] == name]
        log = measure.scale == "log"
        plot = figures.boxes(frame, f"{measure.label} (log scale)" if log else measure.label, log)
        shown["measures"].append({"name": name, "label": measure.label, "frame": frame, "slope": slope, "plot": plot})
    return shown


def _missing(inputs: Inputs) -> list[tuple[str, str]]:
    """The measures that no post has a value of, by family, and why."""
    known, found = inputs.measured(inputs.frame), []
    for name, family in families().items():
        lacking = [c.measure.label for c in family.columns if c.measure is not None and c.name not in known]
        stored = name in inputs.store
        if lacking and (stored or family.by_default):
            why = "no post has a value" if stored else f"the {name} family is not configured or not computed"
            found.append((", ".join(lacking), why))
    return found
