"""Out-of-fold predictions of several variants side by side: stored, judged with intervals, gathered in metrics.json.

Every variant is judged on the same posts and the same resamples of users, so that differences are paired.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.training.metrics import Bootstrap, by_fold
from smp_ray.training.splits import Splits
from smp_ray.workspace import Fragment, Manifest, Workspace

#: The gathered metrics, at the workspace's root.
METRICS_FILE = "metrics.json"


def judge(splits: Splits, predictions: Mapping[str, np.ndarray], resamples: int, seed: int) -> dict[str, Any]:
    """Metrics of each variant, pooled with 95 % intervals and fold by fold.

    Args:
        splits: labels, users and folds.
        predictions: float64 (posts,) by variant, in the order of `splits`; NaN where a post has no fold.
        resamples: bootstrap resamples of users.
        seed: of the resamples.
    """
    judged = splits.judged
    labels, bootstrap = splits.popularity[judged], Bootstrap(splits.users[judged], resamples, seed)
    return {
        name: {
            "pooled": {metric: asdict(e) for metric, e in bootstrap.estimate(labels, values[judged]).items()},
            "folds": by_fold(labels, values[judged], splits.folds[judged]),
        }
        for name, values in predictions.items()
    }


def differences(
    splits: Splits, pairs: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Paired differences, metric of the first minus metric of the second, with 95 % intervals.

    Args:
        splits: labels, users and folds.
        pairs: names of variant and reference -> their predictions, float64 (posts,) in the order of `splits`.
        resamples: bootstrap resamples of users.
        seed: of the resamples.
    """
    judged = splits.judged
    labels, bootstrap = splits.popularity[judged], Bootstrap(splits.users[judged], resamples, seed)
    found = []
    for (variant, reference), (first, second) in pairs.items():
        estimates = bootstrap.difference(labels, first[judged], second[judged])
        found.append(
            {"variant": variant, "reference": reference, **{metric: asdict(e) for metric, e in estimates.items()}}
        )
    return found


def write_out_of_fold(
    workspace: Workspace, path: str, splits: Splits, predictions: Mapping[str, np.ndarray]
) -> Fragment:
    """Store predictions, one column a variant (float64, null where a post has no fold), and return the fragment."""
    columns: dict[str, Any] = {
        "row_id": splits.row_ids,
        "post_id": splits.post_ids,
        "fold": splits.folds,
        "popularity": splits.popularity,
    }
    for name, values in predictions.items():
        columns[name] = pa.array(values, from_pandas=True)
    pq.write_table(pa.table(columns), workspace.path(path), filesystem=workspace.filesystem, compression="zstd")
    return Fragment(path, len(splits.row_ids), workspace.filesystem.get_file_info(workspace.path(path)).size)


def read_out_of_fold(workspace: Workspace, fragment: Fragment, splits: Splits, column: str) -> np.ndarray:
    """One variant's predictions, float64 (posts,) in the order of `splits`; NaN where a post has none."""
    table = pq.read_table(workspace.path(fragment.path), columns=["row_id", column], filesystem=workspace.filesystem)
    row_ids, values = table["row_id"].to_numpy(), table[column].to_numpy()
    order = np.argsort(row_ids)
    return np.asarray(values[order[np.searchsorted(row_ids, splits.row_ids, sorter=order)]], dtype=np.float64)


def gather_metrics(
    workspace: Workspace, splits: Splits, parts: Mapping[str, dict[str, Any]], warnings: list[str]
) -> dict[str, Any]:
    """Write `metrics.json` at the workspace's root from what each part measured, and return it.

    Args:
        workspace: where to.
        splits: the protocol's folds.
        parts: by name (baselines, tune, ablate), those that are there: `fingerprint`, `variants`, `differences`.
        warnings: facts of the data that a reader of the numbers must know.
    """
    metrics: dict[str, Any] = {
        "protocol": {
            "split": splits.kind, "folds": splits.count, "labelled_posts": len(splits.row_ids),
            "judged_posts": int(splits.judged.sum()), "users": len(np.unique(splits.users)),
            "intervals": "95 %, bootstrap over users", "warnings": warnings,
        },
        "variants": {}, "differences": [], "artefacts": {name: part["fingerprint"] for name, part in parts.items()},
    }  # fmt: skip
    for name, part in parts.items():
        for variant, values in part["variants"].items():
            metrics["variants"][variant] = {"from": name, **values}
        metrics["differences"] += part["differences"]
    workspace.write_json(metrics, METRICS_FILE)
    return metrics


def measured(
    workspace: Workspace,
    manifest: Manifest,
    splits: Splits,
    resamples: int,
    variants: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    others: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What an artefact's out-of-fold predictions are worth; kept beside it and read again while nothing changed.

    Args:
        workspace: where the artefact lies.
        manifest: it holds an `out_of_fold.parquet` with one column a variant.
        splits: labels, users and folds.
        resamples: bootstrap resamples of users.
        variants: name of each variant that is judged -> its column.
        pairs: variant and reference whose difference is taken.
        others: predictions from elsewhere that `pairs` may name, float64 (posts,) in the order of `splits`.
        seed: of the resamples.
    """
    asked = {
        "fingerprint": manifest.fingerprint, "resamples": resamples, "seed": seed, "compared": [list(p) for p in pairs],
        "others": {n: hashlib.blake2b(v.tobytes(), digest_size=8).hexdigest() for n, v in (others or {}).items()},
    }  # fmt: skip
    place = (manifest.stage, manifest.fingerprint, METRICS_FILE)
    known = workspace.read_json(*place)
    if known is not None and all(known.get(name) == value for name, value in asked.items()):
        return dict(known)
    fragment = out_of_fold_fragment(manifest)
    predictions = {name: read_out_of_fold(workspace, fragment, splits, column) for name, column in variants.items()}
    every = {**(others or {}), **predictions}
    result = {
        **asked,
        "variants": judge(splits, predictions, resamples, seed),
        "differences": differences(splits, {p: (every[p[0]], every[p[1]]) for p in pairs}, resamples, seed),
    }
    workspace.write_json(result, *place)
    return result


def out_of_fold_fragment(manifest: Manifest) -> Fragment:
    """The file of an artefact that holds its out-of-fold predictions."""
    return next(f for f in manifest.fragments if f.path.endswith("/out_of_fold.parquet"))
