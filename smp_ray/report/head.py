"""The head of the page: what was looked at, by which models, how long it took, and what was found."""

from __future__ import annotations

from typing import Any

import pandas as pd

from smp_ray.report import page
from smp_ray.report.inputs import Inputs, records
from smp_ray.report.prediction import TUNED, kind
from smp_ray.report.quality import overall, relation
from smp_ray.store.manifest import git_commit

_ESTIMATE = ("value", "low", "high")


def title(inputs: Inputs) -> str:
    """Title of the page; synthetic data is labelled as such."""
    name = dataset(inputs)
    synthetic = " (synthetic data)" if inputs.posts.details.get("synthetic") else ""
    return f"Popularity report: {name}{synthetic}"


def dataset(inputs: Inputs) -> str:
    """The dataset's name: the kind of source and, where it has one, the last part of its path."""
    source = inputs.config.source
    path = str(getattr(source, "path", "")).rstrip("/").rsplit("/", 1)[-1]
    return f"{source.kind} {path}".strip()


def head(inputs: Inputs) -> list[str]:
    """Blocks above the table of contents. Comes last: it tells what the sections found."""
    frame, posts = inputs.frame, inputs.posts
    times = frame["posted_at"].dropna()
    span = f"{times.min():%Y-%m-%d} to {times.max():%Y-%m-%d}" if len(times) else "unknown"
    labelled = int(frame["popularity"].notna().sum())
    rows = [
        ("dataset", dataset(inputs) + (", synthetic" if posts.details.get("synthetic") else "")),
        ("posts", f"{len(frame):,}, of which {labelled:,} have a popularity"),
        ("users", f"{frame['user_id'].nunique():,}"),
        ("posted", span),
        *((f"{name} model", _model(m.models[name])) for name, m in inputs.store.items() if m.models.get(name)),
        ("git commit", git_commit() or "unknown, not a checkout"),
    ]
    stages = _stages(inputs)
    if commits := ", ".join(dict.fromkeys(stages["git_commit"].dropna())):
        rows.append(("stages made at", commits))
    return [page.text(found(inputs), "found"), page.grid([page.facts(rows), _stage_table(stages)], "row")]


def _model(model: dict[str, Any]) -> str:
    parts = [str(model[key]) for key in ("pretrained", "gguf_file") if model.get(key)]
    if revision := model.get("revision"):
        parts.append(f"revision {revision}")
    elif files := model.get("files"):
        weights = [digest for file, digest in files.items() if file.endswith((".safetensors", ".bin", ".gguf"))]
        parts += [f"weights {digest[:12]}" for digest in weights[:1]]
    return ", ".join([str(model["name"]), *parts])


def _stages(inputs: Inputs) -> pd.DataFrame:
    """Posts, wall time, speed and origin of each committed stage."""
    manifests = {m.stage.replace("/", ": "): m for m in (inputs.posts, *inputs.store.values())}
    manifests |= {name: manifest for name, manifest in inputs.used.items() if manifest is not None}
    rows = []
    for name, manifest in manifests.items():
        # A family's posts are those of its last pass; the sweep's rows are its trials.
        posts = manifest.details.get("last_pass", {}).get("rows", {}).get("posts", manifest.rows)
        posts = None if manifest is inputs.sweep else posts
        seconds = manifest.wall_seconds
        speed = posts / seconds if posts and seconds else None
        rows.append((name, posts, round(seconds, 1), speed, manifest.git_commit, manifest.created_at))
    frame = pd.DataFrame(rows, columns=["stage", "posts", "wall_seconds", "posts_per_second", "git_commit", "created"])
    return inputs.publish("stages", frame)


def _stage_table(stages: pd.DataFrame) -> str:
    shown = [
        (row["stage"], row["posts"], page.number(row["wall_seconds"], 1), page.number(row["posts_per_second"], 1))
        for row in records(stages)
    ]
    return page.table(
        ["stage", "posts", "wall time, s", "posts/s"], shown,
        "As last computed, start-up included; families of one pass share its time.", "stages",
    )  # fmt: skip


def found(inputs: Inputs) -> str:
    """What was found, in a few sentences with their intervals; nothing is claimed where the interval holds 0."""
    correlations = inputs.published.get("correlations")
    sentences = []
    if correlations is not None:
        parts: list[str] = []
        for name in inputs.speaking(set(correlations["measure"])):
            row, measure = overall(correlations, name), inputs.measures[name]
            interval = page.with_interval(row["spearman"], row["low"], row["high"], digits=2, signed=True)
            said = relation(row["spearman"], row["low"], row["high"])
            if measure.falling and said.startswith("falls"):
                said += f", {measure.falling}"
            parts.append(f"the {measure.label} {said} (Spearman {interval})")
        if parts:
            text = ", and ".join(parts)
            sentences.append(f"{text[0].upper()}{text[1:]}.")
    variants = inputs.metrics["variants"] if inputs.metrics is not None else {}
    tuned = [name for name, values in variants.items() if kind(inputs, values["from"]) == TUNED]
    sentences += [_tuned(inputs.metrics or {}, name) for name in tuned]
    if not inputs.labelled:
        return "No post has a popularity, so nothing is said about what makes posts popular."
    return " ".join(sentences) or "Nothing was measured yet that could be held against popularity."


def _tuned(metrics: dict[str, Any], name: str) -> str:
    pooled = metrics["variants"][name]["pooled"]
    shown = {metric: page.with_interval(*(pooled[metric][key] for key in _ESTIMATE)) for metric in pooled}
    text = f"Out of fold, the tuned model predicts with SRC {shown['src']} and MAE {shown['mae']}"
    pair = next(
        (p for p in metrics["differences"] if (p["variant"], p["reference"]) == (name, "lightgbm_default")), None
    )
    if pair is None or pair["mae"]["low"] is None:
        return f"{text}."
    mae = pair["mae"]
    change = page.with_interval(mae["value"], mae["low"], mae["high"], signed=True)
    if mae["low"] <= 0 <= mae["high"]:
        return f"{text}, not clearly different from LightGBM as it comes (MAE {change})."
    better = "better" if mae["value"] < 0 else "worse"
    return f"{text}, {better} than LightGBM as it comes (MAE {change})."
