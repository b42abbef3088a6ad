"""Out-of-fold predictions of several variants side by side, in an artefact of those that train them.

An artefact that holds some says in its `details` which, and what they are compared with:

    variants         name -> {"column": of out_of_fold.parquet, "caution": why the variant is no result, where it is
                     none, and facts of the variant}
    pairs            [variant, reference] of which the difference is taken
    against_earlier  names of variants that are also set against every variant of the artefacts before this one
    table            name of a table of the variants at the workspace's root
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.store.join import locate
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.parquet import read_table, write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.splits import Splits

_FILE = "out_of_fold.parquet"
#: The variant of the sweep that counts.
TUNED = "tuned"


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
