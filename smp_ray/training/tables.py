"""Metrics as tables: for the terminal, as Markdown, as Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich.table import Table

from smp_ray.evaluation.metrics import METRICS
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import write_table
from smp_ray.store.workspace import Workspace

_DIGITS = 3


def with_interval(estimate: Mapping[str, float | None], signed: bool = False) -> str:
    """`1.234 [1.200, 1.270]`, or `undefined`."""
    if estimate["value"] is None:
        return "undefined"
    form = f"{{:{'+' if signed else ''}.{_DIGITS}f}}"
    text = form.format(estimate["value"])
    if estimate["low"] is None or estimate["high"] is None:
        return text
    return f"{text} [{form.format(estimate['low'])}, {form.format(estimate['high'])}]"


def metrics_table(variants: Mapping[str, Mapping[str, Any]]) -> Table:
    """Variants with SRC, MAE and MAPE, pooled out of fold, for the terminal.

    Args:
        variants: metrics by variant, see `out_of_fold.judge`.
    """
    return _table("variant", {name: values["pooled"] for name, values in variants.items()}, signed=False)


def differences_table(compared: Sequence[Mapping[str, Any]]) -> Table:
    """Paired differences for the terminal.

    Args:
        compared: see `out_of_fold.differences`.
    """
    lines = {f"{pair['variant']}, against {pair['reference']}": pair for pair in compared}
    return _table("paired difference", lines, signed=True)


def _table(title: str, lines: Mapping[str, Mapping[str, Any]], signed: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (title, *(metric.upper() for metric in METRICS)):
        table.add_column(column, no_wrap=True)
    for name, metrics in lines.items():
        table.add_row(name, *(with_interval(metrics[metric], signed) for metric in METRICS))
    return table


def write_variants(workspace: Workspace, name: str, artefact: Manifest, measured: Mapping[str, Any]) -> None:
    """`<name>.parquet` (one row a variant, with its facts) and `<name>.md` at the workspace's root."""
    lines = []
    for variant, values in measured["variants"].items():
        line: dict[str, Any] = {"variant": variant}
        for one in METRICS:
            estimate = values["pooled"][one]
            line |= {one: estimate["value"], f"{one}_low": estimate["low"], f"{one}_high": estimate["high"]}
            for fold in values["folds"]:
                line[f"{one}_fold_{fold['fold']}"] = fold[one]
        facts = artefact.details["variants"][variant]
        lines.append({**line, **{fact: facts[fact] for fact in ("families", "rounds", "seconds")}})
    write_table(workspace, f"{name}.parquet", pa.Table.from_pylist(lines))
    pairs = {f"{pair['variant']} against {pair['reference']}": pair for pair in measured["differences"]}
    pooled = {variant: values["pooled"] for variant, values in measured["variants"].items()}
    text = "\n".join(
        [
            *_markdown("variant", pooled, signed=False), "", *_markdown("paired difference", pairs, signed=True), "",
            "Out of fold, with 95 % intervals from a bootstrap over users.", "",
        ]
    )  # fmt: skip
    workspace.write(text.encode(), f"{name}.md")


def _markdown(title: str, lines: Mapping[str, Mapping[str, Any]], signed: bool) -> list[str]:
    head = [f"| {title} | {' | '.join(metric.upper() for metric in METRICS)} |", f"|{' --- |' * (len(METRICS) + 1)}"]
    return head + [
        f"| {name} | {' | '.join(with_interval(metrics[metric], signed) for metric in METRICS)} |"
        for name, metrics in lines.items()
    ]
