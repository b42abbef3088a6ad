"""The evaluate stage: what all out-of-fold predictions of a configuration are worth, gathered in `metrics.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console

from smp_ray.progress import console
from smp_ray.run import Run
from smp_ray.store.manifest import Made, Manifest
from smp_ray.training.out_of_fold import differences, judge, read_out_of_fold
from smp_ray.training.splits import Splits, load_splits
from smp_ray.training.tables import differences_table, metrics_table, write_variants

#: The gathered metrics, at the workspace's root; beside each artefact, its own part of them.
METRICS_FILE = "metrics.json"
_SEED = 0


def measure(run: Run, folder: str, splits: Manifest, used: dict[str, Manifest | None]) -> Made:
    """Judge the out-of-fold predictions that are there; writes `metrics.json` and tables at the workspace's root.

    Args:
        run: the command's run.
        folder: not needed, as everything goes to the root.
        splits: the splits artefact.
        used: artefacts by the name under which their variants appear; what `training.out_of_fold` says of their
            details decides what is judged and compared.
    """
    folds = load_splits(run.workspace, splits)
    parts: dict[str, dict[str, Any]] = {}
    earlier: dict[str, Manifest] = {}
    for name, artefact in used.items():
        if artefact is None:
            continue
        parts[name] = _measured(run, artefact, folds, earlier)
        earlier |= dict.fromkeys(artefact.details["variants"], artefact)
        if table := artefact.details.get("table"):
            write_variants(run.workspace, table, artefact, parts[name])
    metrics = {
        "protocol": {
            "split": folds.kind, "folds": folds.count, "labelled_posts": len(folds.row_ids),
            "judged_posts": int(folds.judged.sum()), "users": len(np.unique(folds.users)),
            "intervals": "95 %, bootstrap over users", "warnings": splits.details["warnings"],
        },
        "variants": {
            variant: {"from": name, **values}
            for name, part in parts.items()
            for variant, values in part["variants"].items()
        },
        "differences": [pair for part in parts.values() for pair in part["differences"]],
        "artefacts": {name: part["fingerprint"] for name, part in parts.items()},
    }  # fmt: skip
    run.workspace.write_json(metrics, METRICS_FILE)
    note = f"{len(metrics['variants'])} variants"
    return Made(rows=len(folds.row_ids), details={"outputs": [METRICS_FILE]}, note=note)


def _measured(run: Run, artefact: Manifest, splits: Splits, earlier: Mapping[str, Manifest]) -> dict[str, Any]:
    """An artefact's variants and differences; kept beside it and read again while nothing changed."""
    details, resamples = artefact.details, run.config.training.resamples
    variants = list(details["variants"])
    pairs = [(variant, other) for variant in variants for other in earlier] if details.get("against_earlier") else []
    pairs += [(variant, reference) for variant, reference in details.get("pairs", ())]
    asked = {
        "fingerprint": artefact.fingerprint, "resamples": resamples, "seed": _SEED,
        "compared": [[*pair] for pair in pairs], "earlier": sorted({m.fingerprint for m in earlier.values()}),
    }  # fmt: skip
    place = (artefact.stage, artefact.fingerprint, METRICS_FILE)
    known = run.workspace.read_json(*place)
    if known is not None and all(known.get(name) == value for name, value in asked.items()):
        return dict(known)
    holders = {**earlier, **dict.fromkeys(variants, artefact)}
    needed = {*variants, *(name for pair in pairs for name in pair)}
    predictions = {
        name: read_out_of_fold(run.workspace, holders[name], splits, name) for name in holders if name in needed
    }
    compared = {pair: (predictions[pair[0]], predictions[pair[1]]) for pair in pairs}
    result = {
        **asked,
        "variants": judge(splits, {name: predictions[name] for name in variants}, resamples, _SEED),
        "differences": differences(splits, compared, resamples, _SEED),
    }
    run.workspace.write_json(result, *place)
    return result


def show(run: Run) -> None:
    """The measured variants as a table in the terminal."""
    metrics = run.workspace.read_json(METRICS_FILE)
    if metrics is None:
        return
    protocol = metrics["protocol"]
    posts = f"{protocol['judged_posts']:,} posts of {protocol['users']:,} users"
    folds = f"{protocol['folds']} folds by {protocol['split']}"
    console.print(f"\nout of fold, {posts}, {folds}; [95 % interval over users]", markup=False)
    # A log is not as narrow as the terminal that it pretends to be.
    wide = Console(stderr=True, highlight=False, width=max(console.width, 130))
    wide.print(metrics_table(metrics["variants"]))
    if metrics["differences"]:
        console.print()
        wide.print(differences_table(metrics["differences"]))
    console.print(f"more in {run.workspace.path(METRICS_FILE)}", markup=False)
