"""The evaluate stage: what all out-of-fold predictions of a configuration are worth, gathered in `metrics.json`.

Every variant is judged on the same posts and the same resamples of users, so that differences are paired.
"""

from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
from rich.console import Console
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from smp_ray.evaluation.bootstrap import Bootstrap, estimates
from smp_ray.evaluation.metrics import METRICS, by_fold
from smp_ray.progress import Reporter, console
from smp_ray.run import Run
from smp_ray.store.manifest import Made, Manifest
from smp_ray.training import tables
from smp_ray.training.out_of_fold import read_out_of_fold
from smp_ray.training.splits import load_splits

#: The gathered metrics, at the workspace's root.
METRICS_FILE = "metrics.json"


def measure(run: Run, folder: str, splits: Manifest, used: dict[str, Manifest | None]) -> Made:
    """Judge the out-of-fold predictions that are there; writes `metrics.json` and tables at the workspace's root.

    `used` has artefacts by the name under which their variants appear; what `training.out_of_fold` says of their
    details decides what is judged and compared.
    """
    folds, there = load_splits(run.workspace, splits), {name: one for name, one in used.items() if one is not None}
    judged = folds.judged
    labels, bootstrap = folds.popularity[judged], Bootstrap(folds.users[judged], run.config.training.resamples)
    variants: dict[str, dict[str, Any]] = {}
    resampled: dict[str, np.ndarray] = {}
    pairs: list[tuple[str, str]] = []
    total = sum(len(artefact.details["variants"]) for artefact in there.values())
    # Threads that share the sum of a few numbers a post wait for each other longer than they add.
    with Reporter(folder, "variants") as reporter, threadpool_limits(1):
        for name, artefact in there.items():
            own = artefact.details["variants"]
            pairs += product(artefact.details.get("against_earlier", ()), variants)
            pairs += [(variant, reference) for variant, reference in artefact.details.get("pairs", ())]
            for variant in own:
                predicted = read_out_of_fold(run.workspace, artefact, folds, variant)[judged]
                resampled[variant] = bootstrap.metrics(labels, predicted)
                parts = by_fold(labels, predicted, folds.folds[judged])
                # The same for all posts of a fold orders none; pooled it would order the folds' own mean labels.
                if all(part["src"] is None for part in parts):
                    resampled[variant][:, METRICS.index("src")] = np.nan
                variants[variant] = {"from": name, "pooled": _plain(resampled[variant]), "folds": parts}
                variants[variant] |= {"caution": own[variant]["caution"]} if "caution" in own[variant] else {}
                reporter.update(len(variants), total)
    metrics = {
        "protocol": {
            "split": folds.kind, "folds": folds.count, "labelled_posts": len(folds.row_ids),
            "judged_posts": int(judged.sum()), "users": len(np.unique(folds.users[judged])),
            "intervals": "95 %, bootstrap over users", "warnings": splits.details["warnings"],
        },
        "variants": variants,
        "differences": [
            {"variant": variant, "reference": reference, **_plain(resampled[variant] - resampled[reference])}
            for variant, reference in pairs
        ],
        "artefacts": {name: artefact.fingerprint for name, artefact in there.items()},
    }  # fmt: skip
    run.workspace.write_json(metrics, METRICS_FILE)
    outputs = [METRICS_FILE]
    for artefact in there.values():
        if "table" in artefact.details:
            outputs += tables.write_variants(run.workspace, artefact, metrics)
    before = run.workspace.manifest(folder, "")
    for path in set(before.details["outputs"] if before else ()) - set(outputs):  # of another configuration
        if run.workspace.exists(path):
            run.workspace.filesystem.delete_file(run.workspace.path(path))
    return Made(rows=len(folds.row_ids), details={"outputs": outputs}, note=f"{len(variants)} variants")


def _plain(resampled: np.ndarray) -> dict[str, Any]:
    return {metric: asdict(estimate) for metric, estimate in estimates(resampled).items()}


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
    wide.print(tables.for_terminal(tables.metrics_cells(metrics["variants"])))
    for name, values in metrics["variants"].items():
        if "caution" in values:
            wide.print(f"{name}: {values['caution']}", markup=False)
    if metrics["differences"]:
        console.print()
        wide.print(tables.for_terminal(tables.difference_cells(metrics["differences"], ", against ")))
    console.print(f"more in {run.workspace.path(METRICS_FILE)}", markup=False)
