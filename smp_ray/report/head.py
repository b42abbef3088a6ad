"""The head of the page: what was looked at, by which models, how long it took, and what was found."""

from typing import Any

import pandas as pd

from smp_ray.analysis.intervals import OVERALL, UNCLEANED
from smp_ray.evaluation.bootstrap import interval
from smp_ray.families.keys import warning_of
from smp_ray.report.inputs import Inputs
from smp_ray.report.prediction import TUNED, kind
from smp_ray.report.wording import relation, verdict
from smp_ray.store.manifest import git_commit

#: What a `verdict` says of two models.
_COMPARED = {"better": "better than", "worse": "worse than", "no clear difference": "not clearly different from"}
_REFERENCES = {"mean": "the mean of all posts", "lightgbm_default": "LightGBM as it comes"}


def head(inputs: Inputs) -> dict[str, Any]:
    """What stands above the table of contents. Comes last: it tells what the sections found."""
    frame, source = inputs.frame, inputs.config.source
    path = str(getattr(source, "path", "")).rstrip("/").rsplit("/", 1)[-1]
    dataset, synthetic = f"{source.kind} {path}".strip(), bool(inputs.posts.details.get("synthetic"))
    times = frame["posted_at"].dropna()
    stages = _stages(inputs)
    all_posts = inputs.posts.rows
    sample = "" if len(frame) >= all_posts else f" of a sample of the users, out of {all_posts:,}"
    facts = {
        "dataset": dataset + (", synthetic" if synthetic else ""),
        "posts": f"{len(frame):,}{sample}, of which {int(frame['popularity'].notna().sum()):,} have a popularity",
        "users": f"{frame['user_id'].nunique():,}",
        "posted": f"{times.min():%Y-%m-%d} to {times.max():%Y-%m-%d}" if len(times) else "unknown",
        **{f"{name} model": _model(m.models[name]) for name, m in inputs.store.items() if m.models.get(name)},
        "git commit": git_commit() or "unknown, not a checkout",
        "stages made at": ", ".join(stages["git_commit"].dropna().unique()),
    }
    title = f"Popularity report: {dataset}{' (synthetic data)' if synthetic else ''}"
    return {"title": title, "facts": facts, "stages": stages, "found": _found(inputs)}


def _model(model: dict[str, Any]) -> str:
    parts = [str(model["name"]), *(str(model[key]) for key in ("pretrained", "gguf_file") if model.get(key))]
    if revision := model.get("revision"):
        return ", ".join([*parts, f"revision {revision}"])
    files = model.get("files") or {}
    weights = [digest for file, digest in files.items() if file.endswith((".safetensors", ".bin", ".gguf"))]
    return ", ".join([*parts, *(f"weights {digest[:12]}" for digest in weights[:1])])


def _stages(inputs: Inputs) -> pd.DataFrame:
    """Posts, wall time, speed and origin of each committed stage."""
    manifests = {m.stage.replace("/", ": "): m for m in (inputs.posts, *inputs.store.values())}
    manifests |= {name: manifest for name, manifest in inputs.used.items() if manifest is not None}
    rows = []
    for name, manifest in manifests.items():
        # A family's posts are those of its last pass; the sweep's rows are its trials.
        posts = manifest.details.get("last_pass", {}).get("computed", manifest.rows)
        posts = None if manifest is inputs.sweep else posts
        seconds = manifest.wall_seconds
        speed = posts / seconds if posts and seconds else None
        rows.append((name, posts, round(seconds, 1), speed, manifest.git_commit, manifest.created_at))
    frame = pd.DataFrame(rows, columns=["stage", "posts", "wall_seconds", "posts_per_second", "git_commit", "created"])
    return inputs.publish("stages", frame)


def _found(inputs: Inputs) -> str:
    """What was found, in a few sentences with their intervals; nothing is claimed where the interval holds 0."""
    if not inputs.labelled:
        return "No post has a popularity, so nothing is said about what makes posts popular."
    sentences = []
    models = {name: m.models.get(name, {}) for name, m in inputs.store.items()}
    if mind := warning_of(models, bool(inputs.posts.details.get("synthetic"))):
        sentences.append(f"Mind: {mind}.")
    if (found := inputs.published.get("correlations")) is not None:
        overall = found[found["scope"] == OVERALL].set_index("measure")[["spearman", "low", "high"]]
        parts = []
        for name in inputs.speaking(overall.index):
            measure, (value, low, high) = inputs.measures[name], overall.loc[name]
            if pd.isna(value):
                continue
            said = relation(value, low, high)
            because = f", {measure.falling}" if measure.falling and said.startswith("falls") else ""
            shown = interval(value, low, high, digits=2, signed=True)
            parts.append(f"the {measure.label} {said}{because} (Spearman {shown})")
        if parts:
            cleaned = " (without the low-quality posts)" if (found["scope"] == UNCLEANED).any() else ""
            sentences.append(f"On these posts{cleaned}, {', and '.join(parts)}.")
    metrics = inputs.metrics or {"variants": {}}
    tuned = [name for name, values in metrics["variants"].items() if kind(inputs, values) == TUNED]
    sentences += [tuned_in_words(metrics, name, inputs.objective) for name in tuned]
    return " ".join(sentences) or "Nothing was measured yet that could be held against popularity."


def tuned_in_words(metrics: dict[str, Any], name: str, objective: str) -> str:
    """How well a tuned variant predicts, beside LightGBM as it comes, and beside the mean where it is no better.

    `objective` is what it was tuned for and is judged by, "mae" or "mape".
    """
    pooled, judge = metrics["variants"][name]["pooled"], objective.upper()
    src, error = interval(**pooled["src"]), interval(**pooled[objective])
    text = f"Out of fold, the tuned model predicts with SRC {src} and {judge} {error}"
    for pair in metrics["differences"]:
        found, reference = verdict(**pair[objective]), _REFERENCES.get(pair["reference"])
        expected = pair["reference"] == "mean" and found == "better"  # goes without saying
        if pair["variant"] == name and reference and found in _COMPARED and not expected:
            text += f", {_COMPARED[found]} {reference} ({judge} {interval(**pair[objective], signed=True)})"
    return f"{text}."
