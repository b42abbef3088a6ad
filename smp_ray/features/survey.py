"""What a pass has to do, and whether it did it: counted over the whole store in Ray tasks, never on the driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from smp_ray.features.actors import Known
from smp_ray.store.join import locate_sorted
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.parquet import read_table
from smp_ray.store.reader import FamilyIndex, post_row_ids
from smp_ray.store.workspace import Workspace

#: A column of another family that a pass reads, the family, and the files that hold it.
Carried = tuple[str, str, list[Fragment]]


def survey(
    workspace: Workspace,
    posts: Manifest,
    fragments: Mapping[str, list[Fragment]],
    again: Sequence[str],
    carried: Sequence[Carried],
) -> tuple[dict[str, int], Any]:
    """How many posts each family lacks, and a reference to what is known, if anything is. Runs as a Ray task."""
    import ray

    ids = post_row_ids(workspace, posts)
    todo: dict[str, int] = {}
    known = Known()
    for family, files in fragments.items():
        have = np.zeros(0, np.int64)
        if files:
            have = FamilyIndex(workspace, family, files).without(again)
            # The ids of other posts artefacts are of no use to the workers.
            have = have[locate_sorted(have, np.sort(ids)) >= 0]
            known.covered[family] = have
        todo[family] = len(ids) - len(have)
    for column, family, files in carried:
        index = FamilyIndex(workspace, family, files)
        tables = [read_table(workspace, fragment.path, [column]) for fragment in files]
        starts = np.concatenate([[0], np.cumsum([table.num_rows for table in tables])])
        places = starts[index.fragment] + index.position
        known.carried[column] = (index.row_ids, pa.concat_tables(tables).take(pa.array(places)))
    return todo, ray.put(known) if known.covered or known.carried else None


def check(workspace: Workspace, posts: Manifest, fragments: Mapping[str, list[Fragment]]) -> dict[str, dict[str, Any]]:
    """Counts by status over the posts, rows in all and superseded rows of each family. Runs as a Ray task."""
    ids = post_row_ids(workspace, posts)
    result: dict[str, dict[str, Any]] = {}
    for family, files in fragments.items():
        index = FamilyIndex(workspace, family, files)
        result[family] = {"counts": index.count(ids), "rows": len(index.row_ids), "repeated": index.repeated}
    return result
