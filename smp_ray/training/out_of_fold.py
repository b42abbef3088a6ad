"""Out-of-fold predictions of several variants side by side: stored, and judged with intervals.

An artefact that holds some says in its `details` which, and what they are compared with:

    variants         name -> {"column": of out_of_fold.parquet, and facts of the variant}
    pairs            [variant, reference] of which the difference is taken
    against_earlier  true: each variant is also set against every variant of the artefacts before this one
    table            name of a table of the variants at the workspace's root

Every variant is judged on the same posts and the same resamples of users, so that differences are paired.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.evaluation.bootstrap import Bootstrap
from smp_ray.evaluation.metrics import by_fold
from smp_ray.store.join import locate
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.parquet import read_table, write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.splits import Splits

_FILE = "out_of_fold.parquet"


def judge(splits: Splits, predictions: Mapping[str, np.ndarray], resamples: int, seed: int) -> dict[str, Any]:
    """Metrics of each variant, pooled with 95 % intervals from resamples of users, and fold by fold.

    Args:
        splits: labels, users and folds.
        predictions: float64 (posts,) by variant, in the order of `splits`; NaN where a post has no fold.
        resamples: their number.
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
        pairs: names of variant and reference -> their predictions, as `judge` takes them.
        resamples: see `judge`.
        seed: see `judge`.
    """
    judged = splits.judged
    labels, bootstrap = splits.popularity[judged], Bootstrap(splits.users[judged], resamples, seed)
    return [
        {
            "variant": variant, "reference": reference,
            **{name: asdict(e) for name, e in bootstrap.difference(labels, first[judged], second[judged]).items()},
        }
        for (variant, reference), (first, second) in pairs.items()
    ]  # fmt: skip


def write_out_of_fold(
    workspace: Workspace, folder: str, splits: Splits, predictions: Mapping[str, np.ndarray]
) -> Fragment:
    """Store predictions, one column a variant (float64, null where a post has no fold), in an artefact's folder."""
    columns: dict[str, Any] = {name: getattr(splits, f"{name}s") for name in ("row_id", "post_id", "fold")}
    columns["popularity"] = splits.popularity
    columns |= {name: pa.array(values, from_pandas=True) for name, values in predictions.items()}
    return write_table(workspace, f"{folder}/{_FILE}", pa.table(columns))


def read_out_of_fold(workspace: Workspace, manifest: Manifest, splits: Splits, variant: str) -> np.ndarray:
    """One variant's predictions, float64 (posts,) in the order of `splits`; NaN where a post has none."""
    column = manifest.details["variants"][variant]["column"]
    table = read_table(workspace, manifest.file(_FILE).path, ["row_id", column])
    return np.asarray(table[column].to_numpy()[locate(splits.row_ids, table["row_id"].to_numpy())], dtype=np.float64)
