"""The sweep: best score over time, which parameters mattered, and all trials side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from smp_ray.analysis.trials import PARAMETER, best_over_time, parallel, parameter_importance
from smp_ray.report import page, plots
from smp_ray.report.inputs import Inputs

#: An axis of the parallel coordinates that spans more than this factor shows its logarithm.
_LOG_SPAN = 10


def sweep(inputs: Inputs) -> page.Section:
    """The section; without a sweep it says so."""
    section = page.Section("sweep", "The sweep")
    trials, manifest = inputs.trials, inputs.sweep
    if trials is None or manifest is None:
        section.add(page.absent("There was no sweep for these settings and data."))
        return section
    objective = str(manifest.details["objective"]).upper()
    best = manifest.details["best"]
    by_status = ", ".join(f"{count:,} {status}" for status, count in manifest.details["trials_by_status"].items())
    section.add(
        page.text(
            f"{page.counted(len(trials), 'trial')} ({by_status}) in "
            f"{page.number(manifest.details['sweep_seconds'], 1)} s, {manifest.details['concurrency']} side by side. "
            f"The best, trial {best['trial']}, has an {objective} of {page.number(best['value'])}, the mean over the "
            f"folds, after {best['rounds']:,} boosting rounds. Scores of a sweep are those that it chose by, so they "
            "flatter it a little; trials have no interval."
        ),
        _over_time(inputs.publish("best_over_time", best_over_time(trials)), objective),
        _importance(inputs.publish("parameter_importance", parameter_importance(trials, inputs.config.report.seed))),
    )
    frame, labels = parallel(trials)
    if len(frame):
        section.add(_parallel(inputs.publish("parallel", frame), labels, objective))
    return section


def _over_time(frame: pd.DataFrame, objective: str) -> str:
    seconds, status = frame["finished_after_seconds"].tolist(), frame["status"]
    colours = {"completed": plots.MAIN, "stopped": plots.FAINT}
    shown = frame["objective"].notna()
    hover = [f"trial {trial}, {page.plain(state)}" for trial, state in zip(frame["trial"], status, strict=True)]
    data = [
        {
            "type": "scatter", "mode": "lines", "name": "best so far", "x": seconds, "y": frame["best"].tolist(),
            "line": {"shape": "hv", "color": plots.OTHER}, "hoverinfo": "y",
        },
        {
            "type": "scatter", "mode": "markers", "name": "trials", "x": seconds, "y": frame["objective"].tolist(),
            "text": hover, "hovertemplate": "%{text}: %{y}<extra></extra>",
            "marker": {"size": 8, "color": [colours.get(state, plots.REFERENCE) for state in status]},
        },
    ]  # fmt: skip
    best = frame["best"].dropna()
    summary = f"from {page.number(best.iloc[0])} to {page.number(best.iloc[-1])}" if len(best) else "no trial succeeded"
    return page.figure(
        "best_over_time", {"data": data, "layout": plots.layout("seconds since the sweep began", objective)},
        f"Each trial's {objective} when it ended (lighter: stopped early), and the best so far as a line. "
        f"{page.counted(int((~shown).sum()), 'trial')} failed.",
        f"Best {objective} over time, {summary}", "best_over_time",
    )  # fmt: skip


def _importance(frame: pd.DataFrame) -> str:
    if frame.empty:
        return page.absent(
            "Parameter importance needs at least five completed trials that differ in parameters and score."
        )
    names = [str(name) for name in frame["parameter"]]
    words = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, frame["importance"], strict=True))
    return page.figure(
        "parameter_importance",
        plots.ranked(names, frame["importance"].tolist(), "share of the variance explained", tickformat=".0%"),
        "How much of the score's variance each parameter explains over the searched space (fANOVA on completed "
        "trials). With few trials this is a rough order, without an interval.",
        f"Bars of parameter importance: {words}", "parameter_importance", 90 + 34 * len(frame),
    )  # fmt: skip


def _parallel(frame: pd.DataFrame, labels: dict[str, list[str]], objective: str) -> str:
    names = [str(name) for name in frame.columns if str(name).startswith(PARAMETER)]
    axes = [_axis(frame[name], name.removeprefix(PARAMETER), labels.get(name)) for name in names]
    axes.append({"label": objective, "values": frame["objective"].tolist()})
    trace = {
        "type": "parcoords", "dimensions": axes, "labelangle": -18,
        "line": {
            "color": frame["objective"].tolist(), "colorscale": plots.SCALE, "reversescale": True, "showscale": True,
            "colorbar": {"title": {"text": objective}, "thickness": 12},
        },
    }  # fmt: skip
    return page.figure(
        "parallel", {"data": [trace], "layout": {"margin": {"l": 70, "r": 30, "t": 70, "b": 24}}},
        f"All trials that have a score, a line each; bright lines have a low (good) {objective}. Drag along an axis to "
        "pick a range. Axes named log10 show the logarithm.",
        f"Parallel coordinates of {len(frame)} trials over {len(axes) - 1} parameters and their {objective}",
        "parallel", 420,
    )  # fmt: skip


def _axis(values: pd.Series, name: str, texts: list[str] | None) -> dict[str, Any]:
    if texts is not None:
        shown = [text[:24] for text in texts]  # of all texts in figures, only these are never taken for markup
        return {
            "label": page.plain(name), "values": values.fillna(-1).tolist(), "tickvals": list(range(len(texts))),
            "ticktext": shown,
        }  # fmt: skip
    numbers = values.astype(np.float64)
    if numbers.min() > 0 and numbers.max() > _LOG_SPAN * numbers.min():
        return {"label": page.plain(f"log10 {name}"), "values": np.log10(numbers).tolist()}
    return {"label": page.plain(name), "values": numbers.tolist()}
