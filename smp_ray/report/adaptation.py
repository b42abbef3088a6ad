"""Adaptation (Figure 5 of the paper): the embedding spaces before and after the adapter, as maps and as a number."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from smp_ray.analysis.projection import neighbour_quality, project
from smp_ray.config import embeddings
from smp_ray.families.base import IMAGE_EMBEDDING, TITLE_EMBEDDING
from smp_ray.report import page, plots
from smp_ray.report.inputs import Inputs, records
from smp_ray.store.join import vectors
from smp_ray.store.reader import read_columns
from smp_ray.training.adapter.apply import ADAPTED_COLUMNS

BEFORE, AFTER = "before", "after"
#: In the order in which a family's embeddings are asked for.
_MODALITIES = ("image", "title")
#: Posts that the neighbours are looked for among; the time grows with their square.
_NEIGHBOUR_POSTS = 4000


def adaptation(inputs: Inputs) -> page.Section:
    """The section; its vectors are those of a sample of posts."""
    section = page.Section("adaptation", "Adaptation")
    embedder = embeddings(inputs.config)
    if embedder is None or embedder[0] not in inputs.store:
        section.add(page.absent("No family embeds both image and title, so there are no embeddings."))
        return section
    if inputs.adapted is None:
        section.add(page.absent("Only the embeddings as their model gives them: there are no adapters of them."))
    settings = inputs.config.report
    row_ids = _sample(inputs, embedder[0], max(settings.projection_posts, _NEIGHBOUR_POSTS))
    found = _vectors(inputs, row_ids, *embedder)
    popularity = inputs.frame.set_index("row_id")["popularity"]
    section.add(_quality(inputs, found, popularity))
    maps = project(found, popularity, settings.projection_posts, settings.seed)
    if maps.empty:
        section.add(page.absent("Too few posts have an embedding for a map."))
        return section
    maps.insert(1, "post_id", maps["row_id"].map(inputs.frame.set_index("row_id")["post_id"]))
    inputs.publish("projection", maps)
    titles = inputs.frame.set_index("row_id")["title"]
    parts = list(maps.groupby(["modality", "space"], sort=False))
    section.add(page.grid(_map(part, str(modality), str(space), titles) for (modality, space), part in parts))
    return section


def _sample(inputs: Inputs, family: str, count: int) -> np.ndarray:
    """Row ids of a fixed sample of posts that have an embedding, int64 sorted; labelled ones where there are any."""
    frame = inputs.frame
    known = frame[frame[f"{family}_status"].notna()]
    if inputs.labelled:
        known = known[known["popularity"].notna()]
    ids = np.sort(known["row_id"].to_numpy())
    return np.sort(np.random.default_rng(inputs.config.report.seed).permutation(ids)[:count])


def _vectors(
    inputs: Inputs, row_ids: np.ndarray, family: str, columns: tuple[str, ...]
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Row ids and float32 (posts, width), NaN where there is none, of each modality before and after the adapter."""
    before = read_columns(inputs.workspace, inputs.store[family], columns, row_ids)
    spaces = {(modality, BEFORE): before[name] for modality, name in zip(_MODALITIES, columns, strict=True)}
    if inputs.adapted is not None:
        of_role = {column.role: column.name for column in ADAPTED_COLUMNS}
        names = [of_role[role] for role in (IMAGE_EMBEDDING, TITLE_EMBEDDING)]
        after = read_columns(inputs.workspace, inputs.adapted, names, row_ids)
        spaces |= {(modality, AFTER): after[name] for modality, name in zip(_MODALITIES, names, strict=True)}
    found = {
        space: (row_ids, vectors(spaces[space]).astype(np.float32))
        for space in itertools.product(_MODALITIES, (BEFORE, AFTER))
        if space in spaces
    }
    return {space: (ids, values) for space, (ids, values) in found.items() if np.isfinite(values).any()}


def _quality(inputs: Inputs, spaces: dict[Any, Any], popularity: pd.Series) -> str:
    if inputs.folds is None or inputs.fold_of is None:
        return page.absent(
            "How near popularity lies in each space is not computed: there are no folds (no labels, or no training)."
        )
    settings = inputs.config.report
    found = inputs.publish(
        "neighbour_quality",
        neighbour_quality(
            spaces, popularity, inputs.fold_of, inputs.frame.set_index("row_id")["user_id"],
            settings.neighbours, inputs.resamples(_NEIGHBOUR_POSTS), posts=_NEIGHBOUR_POSTS,
            past_only=inputs.folds.config.get("kind") == "time", seed=settings.seed,
        ),
    )  # fmt: skip
    rows = [
        (
            row["modality"], f"{row['space']} the adapter",
            page.with_interval(row["src"], row["src_low"], row["src_high"]),
            page.with_interval(row["mae"], row["mae_low"], row["mae_high"]), row["posts"],
        )
        for row in records(found)
    ]  # fmt: skip
    return page.table(
        ["embedding", "space", "SRC", "MAE", "posts"], rows,
        f"How well the mean popularity of a post's {settings.neighbours} nearest neighbours in each space predicts its "
        f"own, out of fold, on a sample of at most {_NEIGHBOUR_POSTS:,} posts. 95 % bootstrap intervals over users.",
        "neighbour_quality",
    )  # fmt: skip


def _map(part: pd.DataFrame, modality: str, space: str, titles: pd.Series) -> str:
    labelled = part["popularity"].notna().any()
    colours = {"popularity": part["popularity"].tolist(), "density": part["density"].tolist()}
    first = "popularity" if labelled else "density"
    hover = [
        f"{page.plain(title if isinstance(title, str) else '(no title)', 60)}<br>popularity {page.number(value)}"
        for title, value in zip(part["row_id"].map(titles), part["popularity"], strict=True)
    ]
    trace: dict[str, Any] = {
        "type": "scatter3d", "mode": "markers", "text": hover, "hoverinfo": "text",
        **{axis: part[axis].round(3).tolist() for axis in "xyz"},
        "marker": {
            "size": 3, "color": colours[first], "colorscale": plots.SCALE, "showscale": True,
            "colorbar": {"title": {"text": first}, "thickness": 10, "len": 0.7},
        },
    }  # fmt: skip
    hidden = {"showticklabels": False, "title": {"text": ""}, "showspikes": False}
    layout: dict[str, Any] = {
        "margin": {"l": 0, "r": 0, "t": 34, "b": 0}, "showlegend": False,
        "title": {"text": f"{modality}, {space} the adapter", "x": 0.02, "y": 0.97, "font": {"size": 14}},
        "scene": {"xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "cube"},
    }  # fmt: skip
    if labelled:
        buttons = [
            {
                "label": name, "method": "restyle",
                "args": [{"marker.color": [values], "marker.colorbar.title.text": name}],
            }
            for name, values in colours.items()
        ]  # fmt: skip
        layout["updatemenus"] = [
            {
                "type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "y": 0, "xanchor": "left",
                "yanchor": "bottom", "bgcolor": "rgba(128,128,128,0.12)", "font": {"color": plots.MAIN, "size": 12},
            }
        ]  # fmt: skip
    return page.figure(
        f"map_{modality}_{space}", {"data": [trace], "layout": layout},
        f"3-D t-SNE of the {modality} embeddings of {len(part):,} posts {space} the adapter, coloured by popularity or "
        "by density (the buttons choose). Axes have no meaning, and two maps cannot be laid over each other.",
        f"A cloud of {len(part):,} posts, the {modality} embeddings {space} the adapter", "projection", 400,
    )  # fmt: skip
