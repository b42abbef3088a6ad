"""What the predictor uses: gain and SHAP of the final model, by group and of the strongest columns."""

from __future__ import annotations

import numpy as np
import pandas as pd

from smp_ray.analysis.contributions import contributions, importances, importances_by_group
from smp_ray.report import page, plots
from smp_ray.report.inputs import Inputs

_STRONGEST = 20
#: Posts times leaves of all trees at most: SHAP visits every leaf for every post, some seconds.
_VISITS = 20_000_000
_COLOURS = ("#3572b0", "#d1782f", "#4c9a4e", "#b2474c", "#7d62a8", "#7f6a5f")


def importance(inputs: Inputs) -> list[str]:
    """Blocks of the prediction section; a sentence where there is no final model."""
    tuned, matrix = inputs.sweep, inputs.matrix
    if tuned is None or matrix is None:
        return [page.absent("There is no final model: no sweep for these settings and data.")]
    import lightgbm as lgb

    from smp_ray.training.matrix.matrix import load_final

    models = [inputs.workspace.read(path) for path in tuned.details["models"]]
    boosters = [lgb.Booster(model_str=model.decode()) for model in models]
    final, _, _ = load_final(inputs.workspace, matrix)
    leaves = sum(sum(tree["num_leaves"] for tree in b.dump_model()["tree_info"]) for b in boosters)
    count = max(min(inputs.config.report.shap_posts, _VISITS // max(leaves, 1)), 10)
    chosen = np.sort(np.random.default_rng(inputs.config.report.seed).permutation(len(final.values))[:count])
    shap = contributions(boosters, final.values[chosen])
    group_of = [matrix.details["columns"][name] for name in final.names]
    columns = inputs.publish("importances", importances(boosters, shap, final.names, group_of))
    groups = inputs.publish("importances_by_family", importances_by_group(boosters, shap, final.names, group_of))
    palette = {str(name): _COLOURS[place % len(_COLOURS)] for place, name in enumerate(groups["family"])}
    return [page.grid([_groups(groups, len(chosen)), _strongest(columns, palette)])]


def _groups(frame: pd.DataFrame, posts: int) -> str:
    names = [page.plain(name) for name in frame["family"]]
    data = [
        {
            "type": "bar", "orientation": "h", "name": name, "x": frame[column].tolist(), "y": names,
            "marker": {"color": colour}, "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
        }
        for name, column, colour in (("SHAP", "shap_share", plots.MAIN), ("gain", "gain_share", plots.OTHER))
    ]  # fmt: skip
    layout = plots.layout(
        "share", None, xaxis={"tickformat": ".0%"}, yaxis={"autorange": "reversed"}, barmode="group", showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    words = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, frame["shap_share"], strict=True))
    return page.figure(
        "importances_by_family", {"data": data, "layout": layout},
        "What each group of columns adds to the final model's predictions (SHAP, mean size of its summed "
        f"contributions over a sample of {posts:,} posts) and to its training (gain). No interval: one model.",
        f"Bars of importance by group, SHAP: {words}", "importances_by_family", 460,
    )  # fmt: skip


def _strongest(columns: pd.DataFrame, palette: dict[str, str]) -> str:
    top = columns.head(_STRONGEST)
    names = [page.plain(name, 44) for name in top["column"]]
    data = []
    for group, part in top.groupby("family", sort=False):
        gain = [f"{page.number(share * 100, 1)} % of the gain" for share in part["gain_share"]]
        data.append(
            {
                "type": "bar", "orientation": "h", "name": page.plain(group), "x": part["shap"].tolist(),
                "y": part.index.tolist(), "width": 0.75, "marker": {"color": palette[str(group)]}, "customdata": gain,
                "hovertemplate": "%{x:.3f}, %{customdata}<extra></extra>",
            }
        )  # fmt: skip
    ticks = {"tickvals": list(range(len(top))), "ticktext": names, "range": [len(top) - 0.5, -0.5]}
    layout = plots.layout(
        "mean size of the SHAP value", None, yaxis=ticks, barmode="overlay", showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    words = ", ".join(f"{name} {page.number(value)}" for name, value in zip(names, top["shap"], strict=True))
    return page.figure(
        "importances", {"data": data, "layout": layout},
        f"The {len(top)} strongest columns by the mean size of their SHAP values, in units of popularity; one colour a "
        "group. No interval: one model.",
        f"Bars of the strongest columns: {words}", "importances", 460,
    )  # fmt: skip
