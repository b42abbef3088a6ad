"""Many small files of a feature family are rewritten as few, in the order of the posts.

Passes write a file a block, and every rerun adds some. The rewriting is one process's work, a family after the other:
it moves bytes and computes nothing, so a cluster would not make it much faster.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.schema import KEYS
from smp_ray.store.join import locate_sorted
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import FILE_ROWS, PartWriter
from smp_ray.store.reader import FamilyReader, family_of, index_of, iter_posts, new_pass, passes_of, post_row_ids
from smp_ray.store.workspace import Workspace

#: Posts rewritten at a time: memory stays at some hundred megabytes, and some 50 bytes a row.
PIECE = 20_000


def is_scattered(manifest: Manifest) -> bool:
    """Whether a family lies in at least twice the files that it needs, and in more than two."""
    needed = max(math.ceil(manifest.rows / FILE_ROWS), manifest.details.get("compacted", 1))
    return len(manifest.fragments) > max(2, 2 * needed - 1)


def is_interrupted(workspace: Workspace, manifest: Manifest) -> bool:
    """Whether some pass over a family has not ended: what it wrote is taken over by the next run."""
    family = family_of(manifest)
    return not set(passes_of(workspace, family, manifest.fingerprint)) <= set(manifest.details.get("passes", ()))


def compact(workspace: Workspace, posts: Manifest, manifest: Manifest) -> Manifest:
    """Rewrite a family that has files; the workspace is held by the caller, and no pass over the family is open.

    The rows come in the order of `posts`, those of other posts artefacts behind them. Rows that later ones supersede
    drop out, and so do those of posts that no posts artefact of the workspace has any more. The rows keep their
    identity, so that nothing made from them is stale. The old files remain until they are collected.

    Returns:
        The family's new manifest, committed.

    Raises:
        WorkspaceError: a file cannot be read or written.
    """
    everyone = [posts, *(m for m in workspace.manifests(posts.stage) if m.fingerprint != posts.fingerprint)]
    family = family_of(manifest)
    row_ids = np.unique(np.concatenate([post_row_ids(workspace, m) for m in everyone]))
    reader = FamilyReader(workspace, manifest, index_of(workspace, family, manifest.fragments, row_ids))
    # No note lies in this folder: were the rewriting killed, nobody would take its files for those of a pass.
    folder = new_pass()
    schema = pa.schema([*KEYS, *reader.schema])
    with PartWriter(workspace, f"{folder}/data/part-{{:05d}}.parquet", schema) as writer:
        for keys in _each_once(workspace, everyone):
            columns = reader.read(keys["row_id"].to_numpy())
            rows = pa.table([*keys.columns, *columns.columns], schema=schema)
            writer.write(rows.filter(pc.is_valid(rows[f"{family}_status"])))
    known = {artefact.fingerprint for artefact in everyone}
    manifest.details["covers"] = {key: counts for key, counts in manifest.details["covers"].items() if key in known}
    manifest.details["content"] = manifest.content
    manifest.details["compacted"] = len(writer.fragments)
    manifest.fragments = writer.fragments
    return workspace.commit(manifest)


def _each_once(workspace: Workspace, artefacts: Sequence[Manifest]) -> Iterator[pa.Table]:
    """The keys of the posts of some posts artefacts, each post once."""
    seen = np.zeros(0, np.int64)
    for posts in artefacts:
        for piece in iter_posts(workspace, posts, KEYS.names, PIECE):
            yield piece.filter(pa.array(locate_sorted(piece["row_id"].to_numpy(), seen) < 0))
        seen = np.union1d(seen, post_row_ids(workspace, posts))
