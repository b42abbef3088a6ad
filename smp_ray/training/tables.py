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


def metrics_table(variants: Mapping[str, Mapping[str, Any]]) -> Table:
    """Variants with SRC, MAE and MAPE, pooled out of fold (see `out_of_fold.judge`), for the terminal."""
    return _table(_metrics(variants))


def differences_table(compared: Sequence[Mapping[str, Any]]) -> Table:
    """Paired differences (see `out_of_fold.differences`) for the terminal."""
    return _table(_differences(compared, ", against "))


def write_variants(workspace: Workspace, artefact: Manifest, metrics: Mapping[str, Any]) -> None:
    """An artefact's variants at the workspace's root: `<table>.parquet`, one row each with its facts, and `<table>.md`.

    Args:
        workspace: where to.
        artefact: whose details name the table.
        metrics: the gathered metrics, see `measure`.
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
    text = [*_markdown(_metrics(variants)), "", *_markdown(_differences(own, " against ")), ""]
    text += ["Out of fold, with 95 % intervals from a bootstrap over users.", ""]
    workspace.write("\n".join(text).encode(), f"{name}.md")


def _metrics(variants: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Cells by line, the head first."""
    return _cells("variant", {variant: values["pooled"] for variant, values in variants.items()}, signed=False)


def _differences(compared: Sequence[Mapping[str, Any]], between: str) -> list[list[str]]:
    lines = {f"{pair['variant']}{between}{pair['reference']}": pair for pair in compared}
    return _cells("paired difference", lines, signed=True)


def _cells(title: str, lines: Mapping[str, Mapping[str, Any]], signed: bool) -> list[list[str]]:
    head = [title, *(metric.upper() for metric in METRICS)]
    return [head, *([name, *(interval(**line[one], signed=signed) for one in METRICS)] for name, line in lines.items())]


def _table(cells: list[list[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in cells[0]:
        table.add_column(column, no_wrap=True)
    for line in cells[1:]:
        table.add_row(*line)
    return table


def _markdown(cells: list[list[str]]) -> list[str]:
    head, *lines = (f"| {' | '.join(line)} |" for line in cells)
    return [head, f"|{' --- |' * len(cells[0])}", *lines]
