"""Cleaning (Figure 2 of the paper): what each rule removes, and the share removed by popularity."""

from __future__ import annotations

import pandas as pd

from smp_ray.analysis.intervals import popularity_intervals
from smp_ray.analysis.quality_rules import ANY_RULE, cleaning_by_interval, cleaning_rules, reasons
from smp_ray.report import page, plots
from smp_ray.report.inputs import Inputs

_WORDS = {
    "empty_title": "empty title", "short_title": "too short a title", "camera_file_name": "camera file name",
    "no_letters": "no letters", "mostly_symbols": "mostly symbols or emoji",
    "duplicate_title": "title given before by the same user", "no_image": "no image", "bad_image": "broken image",
}  # fmt: skip


def cleaning(inputs: Inputs) -> tuple[page.Section, pd.Series]:
    """The section, and which posts are kept for the analysis: bool, on the index of `inputs.frame`."""
    section = page.Section("cleaning", "Cleaning")
    settings, frame = inputs.config.report, inputs.frame
    found = reasons(frame, settings.cleaning, inputs.image_statuses)
    removed = found.any(axis=1)
    rules = inputs.publish("cleaning_rules", cleaning_rules(found))
    section.add(
        page.text(
            f"{int(removed.sum()):,} of {len(frame):,} posts ({removed.mean():.1%}) count as low quality. They are "
            "left out of the next section's analysis; predictions are made for all posts regardless."
        )
    )
    alone = rules[rules["rule"] != ANY_RULE]
    names = [_WORDS.get(rule, rule) for rule in alone["rule"]]
    if {"no_image", "bad_image"}.isdisjoint(found.columns):
        section.add(page.absent("No family reads the images, or their rules are off, so none is judged by its image."))
    removals = page.figure(
        "cleaning_rules", plots.ranked(names, alone["posts"].tolist(), "posts removed"),
        "Posts that each rule removes; a post may be removed by several. No interval: these are counts.",
        "Bars of the posts removed by each rule: "
        + ", ".join(f"{name} {posts:,}" for name, posts in zip(names, alone["posts"], strict=True)),
        "cleaning_rules",
    )  # fmt: skip
    if inputs.labelled:
        section.add(page.grid([removals, _by_interval(inputs, found)]))
    else:
        why = "No post has a popularity, so there is nothing to show by popularity interval."
        section.add(removals, page.absent(why))
    rows = [
        (_WORDS.get(rule, rule), int(posts), f"{share:.1%}", int(only))
        for rule, posts, share, only in rules[["rule", "posts", "share", "only"]].itertuples(index=False)
    ]
    section.add(page.table(["rule", "posts", "share of all", "by this rule alone"], rows))
    return section, ~removed


def _by_interval(inputs: Inputs, found: pd.DataFrame) -> str:
    settings, frame = inputs.config.report, inputs.frame
    intervals = popularity_intervals(frame["popularity"], settings.edges)
    shares = inputs.publish(
        "cleaning_by_interval",
        cleaning_by_interval(
            found, intervals, frame["user_id"], inputs.resamples(len(frame)), settings.few_posts, settings.seed
        ),
    )
    plot = plots.bars(
        plots.short_intervals(settings.edges), "popularity", shares, "share", "share removed", tickformat=".0%",
        rangemode="tozero",
    )  # fmt: skip
    words = ", ".join(
        f"{name} {page.number(share * 100, 0)} %"
        for name, share in zip(shares["interval"], shares["share"], strict=True)
        if not pd.isna(share)
    )
    return page.figure(
        "cleaning_by_interval", plot,
        "Share of the labelled posts of each popularity interval that any rule removes. Error bars: 95 % interval, "
        f"bootstrap over users. Lighter: fewer than {settings.few_posts} posts.",
        f"Bars of the share removed by popularity interval: {words}", "cleaning_by_interval",
    )  # fmt: skip
