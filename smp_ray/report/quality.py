"""Cleaning (Figure 2 of the paper), and the measures of the posts that it keeps by popularity (Figure 4)."""

from typing import Any

import numpy as np
import pandas as pd

from smp_ray.analysis.intervals import (
    OVERALL,
    UNCLEANED,
    correlations,
    measures_by_interval,
    popularity_intervals,
    trend,
)
from smp_ray.analysis.quality_rules import ANY_RULE, IMAGE_RULES, cleaning_by_interval, cleaning_rules, reasons
from smp_ray.families.registry import families, find, looking
from smp_ray.report import figures
from smp_ray.report.inputs import Inputs

#: The rules on titles, as the numbers name them.
TITLE_RULES = "title"
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
        "by_image": not found.columns.intersection(list(IMAGE_RULES)).empty, "shares": {},
        "rules_plot": figures.ranked(alone["name"], alone["posts"], "posts removed"),
    }  # fmt: skip
    if inputs.labelled:
        users, resamples = frame["user_id"], inputs.resamples(len(frame))
        intervals, judged = popularity_intervals(frame["popularity"], inputs.edges), []
        for kind, rules in _kinds(found).items():
            shares = cleaning_by_interval(
                rules, intervals, inputs.edges, users, resamples, settings.few_posts, settings.seed
            )
            plot = figures.columns(
                shares, "share", "popularity", "share removed", tickformat=".0%", rangemode="tozero"
            )  # fmt: skip
            shown["shares"][kind] = (shares, plot)
            hit = frame[["popularity"]].assign(**{kind: rules.any(axis=1).astype(np.float64)})
            judged.append(correlations(hit, [kind], users, resamples, settings.seed))
        shares = pd.concat([shares.assign(rules=kind) for kind, (shares, _) in shown["shares"].items()])
        inputs.publish("cleaning_by_interval", shares)
        inputs.publish("cleaning_correlations", pd.concat(judged).rename(columns={"measure": "rules"}))
    return shown, ~removed


def _kinds(found: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rules on titles, and those on images where there are any."""
    images = found.columns.isin(list(IMAGE_RULES))
    kinds = {TITLE_RULES: found.loc[:, ~images], "image": found.loc[:, images]}
    return {kind: rules for kind, rules in kinds.items() if rules.columns.size}


def quality(inputs: Inputs, kept: pd.Series) -> dict[str, Any]:
    """What the section shows, on the labelled posts that are `kept`, bool on the index of `inputs.frame`."""
    labelled = inputs.frame["popularity"].notna()
    every = inputs.frame[labelled]
    posts = every[kept[labelled]] if (labelled & kept).any() else every
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
    users, few, seed, edges = posts["user_id"], settings.few_posts, settings.seed, inputs.edges
    resamples = shown["resamples"] = inputs.resamples(len(posts))
    intervals = popularity_intervals(posts["popularity"], edges)
    found = [correlations(posts, measures, users, resamples, seed)]
    if len(posts) < len(every):
        before = correlations(every, measures, every["user_id"], inputs.resamples(len(every)), seed)
        found.append(before[before["scope"] == OVERALL].assign(scope=UNCLEANED))
    order = pd.concat(found).sort_values("measure", key=lambda names: names.map(measures.index), kind="stable")
    shown["correlations"] = inputs.publish("correlations", order)
    summary = inputs.publish("measures_by_interval", measures_by_interval(posts, measures, intervals, edges, few))
    logs = {
        name: np.log(posts[name].where(posts[name] > 0)) for name in measures if inputs.measures[name].scale == "log"
    }
    slopes = trend(posts.assign(**logs), measures, intervals, users, resamples, few, seed)
    # What changes on a log scale changes by a factor.
    factors = slopes["measure"].isin(logs)
    slopes.loc[factors, ["slope", "low", "high"]] = np.exp(slopes.loc[factors, ["slope", "low", "high"]])
    inputs.publish("trend", slopes.assign(unit=np.where(factors, "factor", "difference")))
    for name, slope in zip(measures, slopes.to_dict("records"), strict=True):
        measure, frame = inputs.measures[name], summary[summary["measure"] == name]
        log = measure.scale == "log"
        plot = figures.boxes(frame, f"{measure.label} (log scale)" if log else measure.label, log)
        one = {"name": name, "label": measure.label, "log": log, "frame": frame, "slope": slope, "plot": plot}
        shown["measures"].append(one)
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
