"""Metrics as tables: for the terminal, as Markdown, as Parquet."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich.table import Table

from smp_ray.evaluation.bootstrap import interval
from smp_ray.evaluation.metrics import METRICS
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import write_table
from smp_ray.store.workspace import Workspace

_HOW = (
    "Out of fold, with 95 % intervals from a bootstrap over users. Settings and rounds of each fold were chosen by the "
    "other folds.\n"
)
#: Texts by line, the head first.
Cells = list[list[str]]


def metrics_cells(variants: Mapping[str, Mapping[str, Any]]) -> Cells:
    """Variants of `metrics.json` with SRC, MAE and MAPE, pooled out of fold."""
    return _cells("variant", {variant: values["pooled"] for variant, values in variants.items()}, signed=False)


def difference_cells(compared: Sequence[Mapping[str, Any]], between: str) -> Cells:
    """Paired differences of `metrics.json`, the names of variant and reference with some words between them."""
    lines = {f"{pair['variant']}{between}{pair['reference']}": pair for pair in compared}
    return _cells("paired difference", lines, signed=True)


def for_terminal(cells: Cells) -> Table:
    """A table without lines."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in cells[0]:
        table.add_column(column, no_wrap=True)
    for line in cells[1:]:
        table.add_row(*line)
    return table


def write_variants(workspace: Workspace, artefact: Manifest, metrics: Mapping[str, Any]) -> list[str]:
    """An artefact's variants at the workspace's root: `<table>.parquet`, one row each with its facts, and `<table>.md`.

    Returns both names.

    The artefact's details name the table; `metrics` are what `metrics.json` holds.
    """
    name, facts = artefact.details["table"], artefact.details["variants"]
    variants = {variant: metrics["variants"][variant] for variant in facts}
    lines = []
    for variant, values in variants.items():
        line: dict[str, Any] = {"variant": variant}
        for one in METRICS:
            estimate = values["pooled"][one]
            line |= {one: estimate["value"], f"{one}_low": estimate["low"], f"{one}_high": estimate["high"]}
            line |= {f"{one}_fold_{fold['fold']}": fold[one] for fold in values["folds"]}
        lines.append({**line, **{fact: facts[variant][fact] for fact in ("families", "rounds", "seconds")}})
    write_table(workspace, f"{name}.parquet", pa.Table.from_pylist(lines))
    own = [pair for pair in metrics["differences"] if pair["variant"] in variants]
    parts = [_markdown(metrics_cells(variants)), _markdown(difference_cells(own, " against "))]
    text = "\n\n".join([*parts, _HOW])
    workspace.write(text.encode(), f"{name}.md")
    return [f"{name}.parquet", f"{name}.md"]


def _cells(title: str, lines: Mapping[str, Mapping[str, Any]], signed: bool) -> Cells:
    head = [title, *(metric.upper() for metric in METRICS)]
    return [head, *([name, *(interval(**line[one], signed=signed) for one in METRICS)] for name, line in lines.items())]


def _markdown(cells: Cells) -> str:
    head, *lines = (f"| {' | '.join(line)} |" for line in cells)
    return "\n".join([head, f"|{' --- |' * len(cells[0])}", *lines])
