"""Adaptation (Figure 5 of the paper): the embedding spaces before and after the adapter, as maps and as a number."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from smp_ray.analysis.projection import neighbour_quality, project
from smp_ray.config import embeddings
from smp_ray.families.base import IMAGE_EMBEDDING, TITLE_EMBEDDING
from smp_ray.report import figures
from smp_ray.report.inputs import Inputs
from smp_ray.report.wording import number, plain
from smp_ray.store.join import vectors
from smp_ray.store.parquet import read_table
from smp_ray.store.reader import read_columns
from smp_ray.training.adapter.rows import ADAPTED_COLUMNS

#: In the order in which a family's embeddings are asked for.
_MODALITIES = ("image", "title")
#: Posts that the neighbours are looked for among; the time grows with their square.
_NEIGHBOUR_POSTS = 4000
_HIDDEN = {"showticklabels": False, "title": {"text": ""}, "showspikes": False}


def adaptation(inputs: Inputs) -> dict[str, Any]:
    """What the section shows; its vectors are those of a sample of posts."""
    embedder, settings = embeddings(inputs.config), inputs.config.report
    if embedder is None or embedder[0] not in inputs.store:
        return {"embedded": False}
    adapted = inputs.used_where(lambda manifest: "covers" in manifest.details)
    posts = _sample(inputs, embedder[0], max(settings.projection_posts, _NEIGHBOUR_POSTS))
    found: dict[tuple[str, str], np.ndarray] = {}
    of_role = {column.role: column.name for column in ADAPTED_COLUMNS}
    sources = [("before", inputs.store[embedder[0]], embedder[1])]
    if adapted is not None:
        sources.append(("after", adapted, (of_role[IMAGE_EMBEDDING], of_role[TITLE_EMBEDDING])))
    for space, manifest, columns in sources:
        table = read_columns(inputs.workspace, manifest, columns, posts["row_id"].to_numpy())
        found |= {(modality, space): vectors(table[name]) for modality, name in zip(_MODALITIES, columns, strict=True)}
    order = [(modality, space) for modality in _MODALITIES for space in ("before", "after")]
    found = {key: found[key] for key in order if key in found and np.isfinite(found[key]).any()}
    shown: dict[str, Any] = {"embedded": True, "adapted": adapted is not None, "maps": [], "most": _NEIGHBOUR_POSTS}
    folds = inputs.holding("splits.parquet")
    if folds is not None:
        fold = read_table(inputs.workspace, folds.file("splits.parquet").path, ["row_id", "fold"]).to_pandas()
        shown["quality"] = inputs.publish(
            "neighbour_quality",
            neighbour_quality(
                posts.merge(fold, on="row_id", how="left"), found, settings.neighbours, inputs.resamples(len(posts)),
                past_only=folds.config.get("kind") == "time", seed=settings.seed,
            ),
        )  # fmt: skip
    maps = project(posts, found, settings.projection_posts, settings.seed)
    if len(maps):
        beside = posts.set_index("row_id").loc[maps["row_id"]]
        maps.insert(1, "post_id", beside["post_id"].to_numpy())
        inputs.publish("projection", maps)
        maps = maps.assign(title=beside["title"].to_numpy())
        for (modality, space), part in maps.groupby(["modality", "space"], sort=False):
            one = {"modality": modality, "space": space, "posts": len(part), "plot": _map(part)}
            shown["maps"].append(one)
    return shown


def _sample(inputs: Inputs, family: str, count: int) -> pd.DataFrame:
    """A fixed sample of posts that have an embedding, in order of their row ids; labelled ones where there are any."""
    known = inputs.frame[inputs.frame[f"{family}_status"].notna()]
    if inputs.labelled:
        known = known[known["popularity"].notna()]
    known = known.sort_values("row_id")
    chosen = np.random.default_rng(inputs.config.report.seed).permutation(len(known))[:count]
    return known.iloc[np.sort(chosen)].reset_index(drop=True)


def _map(part: pd.DataFrame) -> go.Figure:
    colours = [name for name in ("popularity", "density") if part[name].notna().any()]
    hover = [
        f"{plain(title if isinstance(title, str) else '(no title)', 60)}<br>popularity {number(value)}"
        for title, value in zip(part["title"], part["popularity"], strict=True)
    ]
    points = go.Scatter3d(
        **{axis: part[axis].astype(np.float32) for axis in "xyz"}, mode="markers", text=hover, hoverinfo="text",
        marker={
            "size": 3, "color": part[colours[0]], "colorscale": figures.SCALE, "showscale": True,
            "colorbar": {"title": {"text": colours[0]}, "thickness": 10, "len": 0.7},
        },
    )  # fmt: skip
    buttons = [
        {
            "label": name, "method": "restyle",
            "args": [{"marker.color": [part[name].tolist()], "marker.colorbar.title.text": name}],
        }
        for name in colours
    ]  # fmt: skip
    menu = {
        "type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "y": 0, "xanchor": "left",
        "yanchor": "bottom", "bgcolor": "rgba(128,128,128,0.12)", "font": {"color": figures.MAIN, "size": 12},
    }  # fmt: skip
    return figures.themed(
        go.Figure(points), margin={"l": 0, "r": 0, "t": 0, "b": 0}, updatemenus=[menu] if len(colours) > 1 else [],
        scene={"xaxis": _HIDDEN, "yaxis": _HIDDEN, "zaxis": _HIDDEN, "aspectmode": "cube"},
    )  # fmt: skip
