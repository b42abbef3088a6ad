"""The evaluate stage: what all out-of-fold predictions of a configuration are worth, gathered in `metrics.json`."""

from itertools import product

import numpy as np
from rich.console import Console

from smp_ray.progress import console
from smp_ray.run import Run
from smp_ray.store.manifest import Made, Manifest
from smp_ray.training.out_of_fold import differences, judge, read_out_of_fold
from smp_ray.training.splits import load_splits
from smp_ray.training.tables import differences_table, metrics_table, write_variants

#: The gathered metrics, at the workspace's root.
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
    folds, resamples = load_splits(run.workspace, splits), run.config.training.resamples
    there = {name: artefact for name, artefact in used.items() if artefact is not None}
    predictions: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for name, artefact in there.items():
        variants = list(artefact.details["variants"])
        if artefact.details.get("against_earlier"):
            pairs += product(variants, predictions)
        pairs += [(variant, reference) for variant, reference in artefact.details.get("pairs", ())]
        predictions |= {variant: read_out_of_fold(run.workspace, artefact, folds, variant) for variant in variants}
        origin |= dict.fromkeys(variants, name)
    compared = {(one, other): (predictions[one], predictions[other]) for one, other in pairs}
    metrics = {
        "protocol": {
            "split": folds.kind, "folds": folds.count, "labelled_posts": len(folds.row_ids),
            "judged_posts": int(folds.judged.sum()), "users": len(np.unique(folds.users)),
            "intervals": "95 %, bootstrap over users", "warnings": splits.details["warnings"],
        },
        "variants": {
            variant: {"from": origin[variant], **values}
            for variant, values in judge(folds, predictions, resamples, _SEED).items()
        },
        "differences": differences(folds, compared, resamples, _SEED),
        "artefacts": {name: artefact.fingerprint for name, artefact in there.items()},
    }  # fmt: skip
    run.workspace.write_json(metrics, METRICS_FILE)
    for artefact in there.values():
        if "table" in artefact.details:
            write_variants(run.workspace, artefact, metrics)
    note = f"{len(predictions)} variants"
    return Made(rows=len(folds.row_ids), details={"outputs": [METRICS_FILE]}, note=note)


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
