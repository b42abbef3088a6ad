"""The sweep: best score over time, which parameters mattered, and all trials side by side."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import optuna
import pandas as pd
import plotly.graph_objects as go

from smp_ray.analysis.trials import PARAMETER, best_over_time, parameter_importance, study_of
from smp_ray.config import Choice, SearchRange
from smp_ray.report import figures
from smp_ray.report.inputs import Inputs
from smp_ray.report.wording import plain
from smp_ray.store.parquet import read_table

_COLOURS = {"completed": figures.MAIN, "stopped": figures.FAINT}


def sweep(inputs: Inputs) -> dict[str, Any]:
    """What the section shows; nothing without a sweep."""
    manifest = inputs.sweep
    if manifest is None:
        return {}
    trials = read_table(inputs.workspace, manifest.file("trials.parquet").path).to_pandas()
    objective, space = str(manifest.details["objective"]).upper(), inputs.config.training.tune.space
    over_time = inputs.publish("best_over_time", best_over_time(trials))
    weights = inputs.publish("parameter_importance", parameter_importance(trials, space, inputs.config.report.seed))
    shown = {
        **manifest.details, "objective": objective, "trials": trials, "over_time": over_time, "weights": weights,
        "over_time_plot": _over_time(over_time, objective),
        "by_fold": inputs.publish("chosen_by_fold", _by_fold(manifest.details["nested"])),
    }  # fmt: skip
    if len(weights):
        share = "share of the variance explained"
        shown["weights_plot"] = figures.ranked(weights["parameter"], weights["importance"], share, tickformat=".0%")
    params = [name for name in trials if name.startswith(PARAMETER)]
    scored = trials.loc[trials["objective"].notna(), ["trial", *params, "objective", "status"]]
    if len(scored):
        shown["parallel"] = inputs.publish("parallel", scored)
        shown["parallel_plot"] = _parallel(scored, space, objective)
    return shown


def _by_fold(nested: Sequence[Mapping[str, int]]) -> pd.DataFrame:
    """The trials, the best first, that stand for each fold, with their rounds."""
    chosen = pd.DataFrame(nested)
    chosen["trials"] = [
        f"{trial} ({rounds:,})" for trial, rounds in zip(chosen["trial"], chosen["rounds"], strict=True)
    ]
    return chosen.groupby("fold")["trials"].agg(", ".join).reset_index()


def _over_time(frame: pd.DataFrame, objective: str) -> go.Figure:
    hover = [f"trial {trial}, {plain(state)}" for trial, state in zip(frame["trial"], frame["status"], strict=True)]
    ends, figure = frame["finished_after_seconds"], go.Figure()
    figure.add_scatter(x=ends, y=frame["best"], mode="lines", hoverinfo="y", line_shape="hv", line_color=figures.OTHER)
    figure.add_scatter(
        x=ends, y=frame["objective"], mode="markers", text=hover, hovertemplate="%{text}: %{y}<extra></extra>",
        marker={"size": 8, "color": [_COLOURS.get(state, figures.REFERENCE) for state in frame["status"]]},
    )  # fmt: skip
    return figures.themed(figure, "seconds since the sweep began", objective)


def _parallel(scored: pd.DataFrame, space: Mapping[str, SearchRange], objective: str) -> go.Figure:
    """Optuna's own figure; names and choices come from the config, and plotly would take markup in them for such."""
    texts = {
        escape(name, quote=False): Choice(type="choice", values=tuple(map(_escaped, range_.values)))
        if isinstance(range_, Choice)
        else range_
        for name, range_ in space.items()
    }
    study = study_of(scored.rename(columns=_escaped).map(_escaped), texts)
    figure = optuna.visualization.plot_parallel_coordinate(study, target_name=objective)
    figure.update_annotations(font_color=None)  # the page's, whose background may be dark
    return figures.themed(figure, title_text="", margin={"l": 70, "r": 30, "t": 30, "b": 40})


def _escaped(value: Any) -> Any:
    return escape(value, quote=False) if isinstance(value, str) else value
