"""Prediction: every variant with its intervals, predicted against true, where the errors are, what the model uses."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from smp_ray.analysis.contributions import importances, importances_by_group
from smp_ray.analysis.intervals import popularity_intervals
from smp_ray.analysis.residuals import by_category, by_user_posts, errors_by
from smp_ray.evaluation.bootstrap import Bootstrap
from smp_ray.report import figures
from smp_ray.report.inputs import Inputs
from smp_ray.report.wording import number, plain
from smp_ray.training.boosting.registry import find
from smp_ray.training.matrix.matrix import load_final

BASELINE, TUNED, ABLATION, NO_RESULT = "baseline", "tuned model", "ablation", "for comparison"
#: More points than this are drawn by WebGL.
_SVG_POINTS = 5000
_STRONGEST = 20
#: Posts times leaves of all trees at most: SHAP visits every leaf for every post, some seconds.
_VISITS = 20_000_000


def prediction(inputs: Inputs) -> dict[str, Any]:
    """What the section shows; each part is left out whose stage has not been run."""
    if not inputs.labelled:
        return {}
    shown: dict[str, Any] = {}
    if inputs.metrics is not None:
        shown |= _variants(inputs, inputs.metrics)
        if (found := _held_out(inputs)) is not None:
            shown["held_out"] = found
        if (calibrated := inputs.holding("coverage")) is not None and calibrated.details["coverage"]:
            shown["intervals"] = calibrated.details["coverage"]
    if inputs.judged is not None:
        shown |= {"scatter": _scatter(inputs, inputs.judged), "errors": _errors(inputs, inputs.judged)}
    return shown | _importance(inputs)


def _variants(inputs: Inputs, metrics: dict[str, Any]) -> dict[str, Any]:
    variants = metrics["variants"].items()
    frame = _estimates({"variant": name, "from": values["from"], **values["pooled"]} for name, values in variants)
    inputs.publish("metrics", frame)
    kinds = [kind(inputs, values) for _, values in variants]
    colours = [figures.OTHER if name == TUNED else figures.MAIN for name in kinds]
    matrix = inputs.holding("final.parquet")
    warnings = [*metrics["protocol"]["warnings"], *(matrix.details.get("warnings", ()) if matrix else ())]
    shown = {
        "protocol": metrics["protocol"], "warnings": warnings, "objective": inputs.objective,
        "variants": frame.assign(kind=kinds), "ablated": ABLATION in kinds,
        "cautions": {name: values["caution"] for name, values in variants if "caution" in values},
        "variants_plot": figures.ranked(frame["variant"], frame["mae"], "MAE", colours, frame, points=True),
    }  # fmt: skip
    if pairs := metrics["differences"]:
        shown["differences"] = inputs.publish("differences", _estimates(pairs))
    return shown


def _held_out(inputs: Inputs) -> dict[str, Any] | None:
    """How well labelled posts are predicted that nothing was learned from, as those of split `test`."""
    found = inputs.predictions
    own = None if found is None else found[(found["source"] == "model") & found["popularity"].notna()]
    if own is None or own.empty:
        return None
    bootstrap = Bootstrap(own["user_id"], inputs.resamples(len(own)), inputs.config.report.seed)
    metrics = {name: asdict(one) for name, one in bootstrap.estimate(own["popularity"], own["prediction"]).items()}
    names = {"variant": "final models", "from": "labelled posts that nothing was learned from"}
    frame = inputs.publish("held_out", _estimates([{**names, **metrics}]))
    return {"posts": len(own), "users": own["user_id"].nunique(), "found": frame.iloc[0].to_dict()}


def kind(inputs: Inputs, variant: Mapping[str, Any]) -> str:
    """What a variant of the metrics is."""
    if "caution" in variant:
        return NO_RESULT
    manifest = inputs.used[variant["from"]]
    if manifest is inputs.sweep:
        return TUNED
    return ABLATION if manifest is not None and "table" in manifest.details else BASELINE


def _estimates(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A row each: two names, then of each metric its value, `_low` and `_high`."""
    frame = pd.json_normalize(list(rows), sep="_").rename(columns=lambda name: name.removesuffix("_value"))
    return frame.astype(dict.fromkeys(frame.columns[2:], np.float64))


def _scatter(inputs: Inputs, judged: pd.DataFrame) -> dict[str, Any]:
    settings = inputs.config.report
    chosen = np.random.default_rng(settings.seed).permutation(len(judged))[: settings.scatter_posts]
    sample = judged.iloc[np.sort(chosen)]
    inputs.publish("predicted_against_true", sample[["row_id", "post_id", "fold", "popularity", "prediction"]])
    ends = [judged["popularity"].min(), judged["popularity"].max()]
    points = go.Scattergl if len(sample) > _SVG_POINTS else go.Scatter
    figure = go.Figure()
    figure.add_scatter(x=ends, y=ends, mode="lines", hoverinfo="skip", line_color=figures.REFERENCE, line_dash="dash")
    titles = [plain(title if isinstance(title, str) else "(no title)", 60) for title in sample["title"]]
    figure.add_trace(
        points(
            x=sample["popularity"], y=sample["prediction"], mode="markers", text=titles,
            hovertemplate="%{text}<br>true %{x}, predicted %{y:.4g}<extra></extra>",
            marker={"size": 5, "color": figures.MAIN, "opacity": 0.45},
        )
    )  # fmt: skip
    of_all = f"all {len(judged):,}" if len(sample) == len(judged) else f"a sample of {len(sample):,} of {len(judged):,}"
    return {"posts": of_all, "plot": figures.themed(figure, "true popularity", "predicted popularity")}


def _errors(inputs: Inputs, judged: pd.DataFrame) -> dict[str, Any]:
    """Frame and figure by each grouping of the posts."""
    settings = inputs.config.report
    user_posts = judged["user_id"].map(inputs.frame["user_id"].value_counts())
    groupings = {
        "interval": ("popularity", popularity_intervals(judged["popularity"], inputs.edges)),
        "user_posts": ("number of the user's posts", by_user_posts(user_posts)),
        "category": ("category", by_category(judged["category"])),
    }
    shown = {}
    for name, (by, groups) in groupings.items():
        frame = errors_by(judged, groups, inputs.resamples(len(judged)), settings.few_posts, settings.seed)
        inputs.publish(f"error_by_{name}", frame)
        if name == "category":
            names = [f"{group} ({posts:,})" for group, posts in zip(frame["group"], frame["posts"], strict=True)]
            plot = figures.ranked(names, frame["mae"], "MAE", figures.shades(frame), frame, rangemode="tozero")
        else:
            plot = figures.columns(frame, "mae", by, "MAE", rangemode="tozero")
        shown[name] = {"by": by, "frame": frame, "plot": plot}
    return shown


def _importance(inputs: Inputs) -> dict[str, Any]:
    """Gain and SHAP of the final model, by group and of the strongest columns; nothing without a model."""
    tuned, matrix = inputs.sweep, inputs.holding("final.parquet")
    if tuned is None or matrix is None:
        return {}
    predictor = find(tuned.details["predictor"])
    models = [predictor.load(inputs.workspace.read(path).decode()) for path in tuned.details["models"]]
    final, _ = load_final(inputs.workspace, matrix)
    count = max(min(inputs.config.report.shap_posts, _VISITS // max(sum(model.leaves() for model in models), 1)), 10)
    chosen = np.random.default_rng(inputs.config.report.seed).permutation(len(final.values))[:count]
    values = final.values[np.sort(chosen)]
    shaps = [part for model in models if (part := model.contributions(values)) is not None]
    gains = [part for model in models if (part := model.gain()) is not None]
    if not (shaps and gains):
        return {"silent": predictor.name}
    shap, gain = np.mean(shaps, axis=0), np.mean(gains, axis=0)
    group_of = [matrix.details["columns"][name] for name in final.names]
    columns = inputs.publish("importances", importances(gain, shap, final.names, group_of))
    strongest = columns.head(_STRONGEST)
    groups = inputs.publish("importances_by_family", importances_by_group(columns, shap, group_of))
    return {
        "shap_posts": len(chosen), "groups": groups, "groups_plot": _groups(groups),
        "columns": strongest, "columns_plot": _strongest(strongest, groups["family"].tolist()),
    }  # fmt: skip


def _groups(frame: pd.DataFrame) -> go.Figure:
    shares = frame.rename(columns={"shap_share": "SHAP", "gain_share": "gain"}).assign(
        family=frame["family"].map(plain)
    )
    figure = px.bar(
        shares, x=["SHAP", "gain"], y="family", barmode="group", orientation="h", template=figures.THEME
    )  # fmt: skip
    figure.update_traces(hovertemplate="%{y}: %{x:.1%}<extra></extra>")
    axes = {"xaxis_tickformat": ".0%", "yaxis_autorange": "reversed", "legend_traceorder": "normal"}
    return figures.themed(figure, "share", "", showlegend=True, legend_title_text="", **axes)


def _strongest(top: pd.DataFrame, groups: list[str]) -> go.Figure:
    gain = [f"{number(share * 100, 1)} % of the gain" for share in top["gain_share"]]
    figure = px.bar(
        top.assign(place=range(len(top)), family=top["family"].map(plain), gain=gain), x="shap", y="place",
        color="family", orientation="h", custom_data="gain", category_orders={"family": list(map(plain, groups))},
        template=figures.THEME,
    )  # fmt: skip
    figure.update_traces(hovertemplate="%{x:.3f}, %{customdata[0]}<extra></extra>", width=0.75)
    names = figures.rows([plain(name, 44) for name in top["column"]])
    layout = {"yaxis": names, "showlegend": True, "legend_title_text": "", "margin_t": 90}
    return figures.themed(figure, "mean size of the SHAP value", "", **layout)
