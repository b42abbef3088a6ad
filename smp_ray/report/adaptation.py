"""Adaptation (Figure 5 of the paper): the embedding spaces before and after the adapter, as maps and as a number."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa

from smp_ray.analysis.projection import AFTER, BEFORE, DIFFERENCE, neighbour_quality, project
from smp_ray.config import embeddings
from smp_ray.families.base import IMAGE_EMBEDDING, TITLE_EMBEDDING
from smp_ray.report import figures
from smp_ray.report.inputs import Inputs
from smp_ray.report.wording import number, plain
from smp_ray.store.join import vectors
from smp_ray.store.parquet import read_table
from smp_ray.store.reader import read_columns
from smp_ray.training.adapter.apply import Adapters
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
    family, columns = embedder
    posts = _sample(inputs, family, max(settings.projection_posts, _NEIGHBOUR_POSTS))
    table = read_columns(inputs.workspace, inputs.store[family], list(columns), posts["row_id"].to_numpy())
    spaces = {BEFORE: columns}
    adapted, folds = inputs.holding("embeddings"), inputs.holding("splits.parquet")
    if adapted is not None and folds is not None:
        of_role = {column.role: column.name for column in ADAPTED_COLUMNS}
        spaces[AFTER] = (of_role[IMAGE_EMBEDDING], of_role[TITLE_EMBEDDING])
        keyed = table.append_column("row_id", pa.array(posts["row_id"]))
        table = Adapters.of(inputs.workspace, adapted, folds).beside(keyed)
    found = {
        (modality, space): vectors(table[names[at]])
        for at, modality in enumerate(_MODALITIES)
        for space, names in spaces.items()
        if table[names[at]].null_count < len(table)
    }
    shown: dict[str, Any] = {
        "embedded": True,
        "adapted": AFTER in spaces,
        "difference": DIFFERENCE,
        "maps": [],
        "most": _NEIGHBOUR_POSTS,
    }
    if folds is not None:
        fold = read_table(inputs.workspace, folds.file("splits.parquet").path, ["row_id", "fold"]).to_pandas()
        table = neighbour_quality(
            posts.merge(fold, on="row_id", how="left"), found, settings.neighbours, inputs.resamples(len(posts)),
            past_only=folds.config.get("kind") == "time", seed=settings.seed,
        )  # fmt: skip
        shown["quality"] = inputs.publish("neighbour_quality", table)
    maps = project(posts, found, settings.projection_posts, settings.seed)
    if len(maps):
        maps = posts[["row_id", "post_id", "title"]].merge(maps, on="row_id", how="right")
        inputs.publish("projection", maps.drop(columns="title"))
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
    restyled = {name: {"marker.color": [part[name].tolist()], "marker.colorbar.title.text": name} for name in colours}
    menu = {
        "buttons": [{"label": name, "method": "restyle", "args": [change]} for name, change in restyled.items()],
        "type": "buttons", "direction": "right", "x": 0, "y": 0, "xanchor": "left", "yanchor": "bottom",
        "bgcolor": "rgba(128,128,128,0.12)", "font": {"color": figures.MAIN, "size": 12}, "visible": len(colours) > 1,
    }  # fmt: skip
    scene = {"xaxis": _HIDDEN, "yaxis": _HIDDEN, "zaxis": _HIDDEN, "aspectmode": "cube"}
    margin = {"l": 0, "r": 0, "t": 0, "b": 0}
    return figures.themed(go.Figure(points), margin=margin, updatemenus=[menu], scene=scene)
