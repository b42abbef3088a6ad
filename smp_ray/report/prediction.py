"""Prediction: every variant with its intervals, predicted against true, and where the errors are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from smp_ray.analysis.residuals import error_by_category, error_by_interval, error_by_user_posts
from smp_ray.report import page, plots
from smp_ray.report.importance import importance
from smp_ray.report.inputs import Inputs, records

METRICS = ("src", "mae", "mape")
BASELINE, TUNED, ABLATION = "baseline", "tuned model", "ablation"
#: More points than this are drawn by WebGL.
_SVG_POINTS = 5000


def prediction(inputs: Inputs) -> page.Section:
    """The section; each part that its stage has not been run for says so."""
    section = page.Section("prediction", "Prediction")
    if not inputs.labelled:
        section.add(page.absent("No post has a popularity, so there is no predictor and nothing to judge it by."))
        return section
    section.add(*_variants(inputs))
    section.add(page.heading("Predicted against true"))
    if inputs.judged is None:
        section.add(page.absent("There are no out-of-fold predictions for these settings and data."))
    else:
        section.add(_scatter(inputs, inputs.judged), page.heading("Where the errors are"), *_errors(inputs))
    section.add(page.heading("What the predictor uses"), *importance(inputs))
    return section


def _variants(inputs: Inputs) -> list[str]:
    metrics = inputs.metrics
    if metrics is None:
        return [page.absent("Nothing is measured yet for these settings and data.")]
    protocol = metrics["protocol"]
    frame = inputs.publish("metrics", metrics_frame(metrics["variants"]))
    blocks = [
        page.text(
            f"{protocol['judged_posts']:,} posts of {protocol['users']:,} users, predicted out of fold in "
            f"{protocol['folds']} folds by {protocol['split']}. SRC: Spearman's rank correlation, higher is better. "
            "MAE and MAPE: mean absolute error and the same as a share of the label, lower is better. In brackets: "
            "95 % interval, bootstrap over users."
        )
    ]
    blocks += [page.text(f"Mind: {warning}", "note") for warning in protocol["warnings"]]
    kinds = [kind(inputs, name) for name in frame["from"]]
    rows = [(row["variant"], name, *_cells(row)) for row, name in zip(records(frame), kinds, strict=True)]
    blocks.append(page.table(["variant", "kind", "SRC", "MAE", "MAPE"], rows, "Every variant.", "metrics"))
    errors = plots.error_bars(frame, "mae")
    colours = [plots.OTHER if name == TUNED else plots.MAIN for name in kinds]
    words = ", ".join(
        f"{name} {page.number(value)}" for name, value in zip(frame["variant"], frame["mae"], strict=True)
    )
    blocks.append(
        page.figure(
            "mae_by_variant",
            plots.ranked(frame["variant"], frame["mae"].tolist(), "MAE", colours, errors, points=True),
            "Mean absolute error of every variant, the tuned model in orange. Bars: 95 % interval, bootstrap over "
            "users. Variants are judged on the same posts, so overlapping bars may still differ: see the paired "
            "differences.", f"Points with the MAE of each variant: {words}", "metrics", 90 + 28 * len(frame),
        )
    )  # fmt: skip
    if ABLATION not in kinds:
        blocks.append(page.absent("There is no ablation for these settings and data."))
    if metrics["differences"]:
        pairs = inputs.publish("differences", _differences_frame(metrics["differences"]))
        rows = [(row["variant"], row["reference"], *_cells(row, signed=True), _verdict(row)) for row in records(pairs)]
        head = ["variant", "against", "SRC", "MAE", "MAPE", "by MAE it is"]
        blocks.append(page.table(head, rows, "Paired differences on the same resamples of users.", "differences"))
    return blocks


def kind(inputs: Inputs, name: str) -> str:
    """What the variants of an artefact are, by its name in the metrics."""
    kinds = ((TUNED, inputs.sweep), (ABLATION, inputs.ablation))
    return next((kind for kind, manifest in kinds if manifest is inputs.used[name]), BASELINE)


def metrics_frame(variants: dict[str, Any]) -> pd.DataFrame:
    """variant, from, and of each metric its value, `_low` and `_high`; NaN where undefined."""
    rows = [{"variant": name, "from": values["from"], **_flat(values["pooled"])} for name, values in variants.items()]
    return pd.DataFrame(rows).astype(dict.fromkeys(_flat({}), np.float64))


def _differences_frame(differences: list[dict[str, Any]]) -> pd.DataFrame:
    rows = [{"variant": pair["variant"], "reference": pair["reference"], **_flat(pair)} for pair in differences]
    return pd.DataFrame(rows).astype(dict.fromkeys(_flat({}), np.float64))


def _flat(estimates: dict[str, Any]) -> dict[str, float | None]:
    flat: dict[str, float | None] = {}
    for metric in METRICS:
        estimate = estimates.get(metric) or {}
        flat |= {metric: estimate.get("value"), f"{metric}_low": estimate.get("low")}
        flat[f"{metric}_high"] = estimate.get("high")
    return flat


def _cells(row: dict[str, Any], signed: bool = False) -> list[str]:
    return [page.with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], signed=signed) for name in METRICS]


def _verdict(row: dict[str, Any]) -> str:
    if np.isnan([row["mae"], row["mae_low"], row["mae_high"]]).any():
        return "undefined"
    if row["mae_low"] <= 0 <= row["mae_high"]:
        return "no clear difference"
    return "better" if row["mae"] < 0 else "worse"


def _scatter(inputs: Inputs, judged: pd.DataFrame) -> str:
    settings = inputs.config.report
    chosen = np.sort(np.random.default_rng(settings.seed).permutation(len(judged))[: settings.scatter_posts])
    sample = judged.iloc[chosen]
    inputs.publish("predicted_against_true", sample[["row_id", "post_id", "fold", "popularity", "prediction"]])
    ends = [float(judged["popularity"].min()), float(judged["popularity"].max())]
    hover = [page.plain(title if isinstance(title, str) else "(no title)", 60) for title in sample["title"]]
    data = [
        {
            "type": "scatter", "mode": "lines", "x": ends, "y": ends, "hoverinfo": "skip",
            "line": {"color": plots.REFERENCE, "dash": "dash"},
        },
        {
            "type": "scattergl" if len(sample) > _SVG_POINTS else "scatter", "mode": "markers",
            "x": sample["popularity"].tolist(), "y": sample["prediction"].round(3).tolist(), "text": hover,
            "hovertemplate": "%{text}<br>true %{x}, predicted %{y}<extra></extra>",
            "marker": {"size": 5, "color": plots.MAIN, "opacity": 0.45},
        },
    ]  # fmt: skip
    shown = f"a sample of {len(sample):,} of {len(judged):,}" if len(sample) < len(judged) else f"all {len(judged):,}"
    return page.figure(
        "predicted_against_true", {"data": data, "layout": plots.layout("true popularity", "predicted popularity")},
        f"Each point is a post, predicted by a model that did not see it ({shown} posts). On the dashed line "
        "prediction and truth agree. Point at one to see its title.",
        f"Scatter of predicted against true popularity, {shown} posts", "predicted_against_true", 480,
    )  # fmt: skip


def _errors(inputs: Inputs) -> list[str]:
    settings = inputs.config.report
    assert inputs.judged is not None
    posts_of = inputs.frame["user_id"].value_counts()
    judged = inputs.judged.assign(user_posts=inputs.judged["user_id"].map(posts_of))
    resamples, few, seed = inputs.resamples(len(judged)), settings.few_posts, settings.seed
    interval = error_by_interval(judged, settings.edges, resamples, few, seed)
    users = error_by_user_posts(judged, resamples, few, seed)
    blocks = [
        _error_bars(
            inputs.publish("error_by_interval", interval),
            plots.short_intervals(settings.edges),
            "error_by_interval",
            "popularity",
            few,
        ),
        _error_bars(
            inputs.publish("error_by_user_posts", users),
            users["group"].tolist(),
            "error_by_user_posts",
            "number of the user's posts",
            few,
        ),
    ]
    category = inputs.publish("error_by_category", error_by_category(judged, resamples, few, seed))
    found = [page.grid(blocks)]
    if category.empty:
        return [*found, page.absent("No post has a category, so there is no error by category.")]
    return [*found, _by_category(category, few)]


def _error_bars(frame: pd.DataFrame, names: list[str], name: str, by: str, few: int) -> str:
    return page.figure(
        name, plots.bars(names, by, frame, "mae", "MAE", rangemode="tozero"),
        f"Mean absolute error by {by}, out of fold. Error bars: 95 % interval, bootstrap over users; none with fewer "
        f"than two users. Lighter: fewer than {few} posts. The CSV also has the bias and the SRC of each group.",
        f"Bars of the MAE by {by}: {_words(frame)}", name,
    )  # fmt: skip


def _by_category(frame: pd.DataFrame, few: int) -> str:
    errors = plots.error_bars(frame, "mae")
    colours = [plots.FAINT if row else plots.MAIN for row in frame["few"]]
    names = [f"{name} ({posts:,})" for name, posts in zip(frame["group"], frame["posts"], strict=True)]
    return page.figure(
        "error_by_category", plots.ranked(names, frame["mae"].tolist(), "MAE", colours, errors, rangemode="tozero"),
        "Mean absolute error by category (number of posts), the largest first. Error bars: 95 % interval, bootstrap "
        f"over users. Lighter: fewer than {few} posts.",
        f"Bars of the MAE by category: {_words(frame)}", "error_by_category", 90 + 26 * len(frame),
    )  # fmt: skip


def _words(frame: pd.DataFrame) -> str:
    return ", ".join(
        f"{group} {page.number(mae)}"
        for group, mae in zip(frame["group"], frame["mae"], strict=True)
        if not np.isnan(mae)
    )
