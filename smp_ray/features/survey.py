"""What a pass has to do, and whether it did it: counted over the whole store in Ray tasks, never on the driver."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from smp_ray.families.registry import find, owner_of
from smp_ray.schema import STATUSES
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.reader import index_of, post_row_ids, read_columns, statuses_of
from smp_ray.store.workspace import Workspace


def survey(
    workspace: Workspace,
    posts: Manifest,
    fragments: Mapping[str, list[Fragment]],
    again: Sequence[str],
    carried: Mapping[str, Manifest],
) -> tuple[dict[str, int], pa.Table]:
    """What the store holds already.

    Args:
        workspace: with the store.
        posts: the posts artefact.
        fragments: files that hold each family of the pass.
        again: statuses that count as not done.
        carried: columns that the pass reads of the store, and the stored family that has each.

    Returns:
        How many posts each family lacks; and a table with a row a post, sorted by `row_id`: `need_<family>` and the
        carried columns.
    """
    ids = np.sort(post_row_ids(workspace, posts))
    known = pa.table({"row_id": ids})
    todo: dict[str, int] = {}
    wanted = [-1, *(STATUSES.index(status) for status in again)]
    for family, files in fragments.items():
        need = np.isin(statuses_of(index_of(workspace, family, files), ids), wanted)
        known = known.append_column(f"need_{family}", pa.array(need))
        todo[family] = int(need.sum())
    for column, manifest in carried.items():
        known = known.append_column(column, read_columns(workspace, manifest, [column], ids)[column])
    return todo, known


def carried_columns(families: Sequence[str], stored: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """Columns that some families read of stored families, and the manifest of the family that has each."""
    owners = {column: owner_of(column) for family in families for column in find(family).reads}
    return {column: stored[owner] for column, owner in owners.items() if owner is not None and owner in stored}


def check(workspace: Workspace, posts: Manifest, fragments: Mapping[str, list[Fragment]]) -> dict[str, dict[str, int]]:
    """Posts by status of each family; those without a row count as `missing`."""
    ids = post_row_ids(workspace, posts)
    result: dict[str, dict[str, int]] = {}
    for family, files in fragments.items():
        codes = statuses_of(index_of(workspace, family, files), ids)
        counts = dict(zip(("missing", *STATUSES), np.bincount(codes + 1, minlength=len(STATUSES) + 1), strict=True))
        result[family] = {status: int(count) for status, count in counts.items() if count}
    return result
