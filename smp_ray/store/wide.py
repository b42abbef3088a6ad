"""Posts with their features side by side, one wide row a post, joined by row id and never by order."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import reading
from smp_ray.store.reader import FamilyReader, Index, family_of, index_of, iter_posts, post_row_ids
from smp_ray.store.workspace import Workspace, asked_again

#: Posts joined at a time: memory stays at some hundred megabytes whatever the size of the store.
PIECE = 20_000


def indices(workspace: Workspace, posts: Manifest, families: Sequence[Manifest]) -> list[Index]:
    """Where the posts' rows of each family lie: 8 bytes a post, and 8 more a family."""
    row_ids = np.sort(post_row_ids(workspace, posts)) if families else np.zeros(0, np.int64)
    return [index_of(workspace, family_of(manifest), manifest.fragments, row_ids) for manifest in families]


def wide(
    workspace: Workspace,
    posts: Manifest,
    families: Sequence[Manifest],
    found: Sequence[Index] | None = None,
    keep: Callable[[pa.Table], pa.Table] = lambda piece: piece,
) -> Iterator[pa.Table]:
    """Pieces of at most `PIECE` posts in the order of ingest: the posts table without image bytes, then the families.

    `found` is what `indices` finds, None: it is found here. `keep` takes the wanted ones of a piece of the posts table;
    features of others are not read.
    """
    found = indices(workspace, posts, families) if found is None else found
    readers = [FamilyReader(workspace, m, index) for m, index in zip(families, found, strict=True)]
    path = workspace.path(posts.fragments[0].path)
    with reading(path):
        schema = asked_again(lambda: pq.read_schema(path, filesystem=workspace.filesystem))
    columns = [name for name in schema.names if name != "image_bytes"]
    for piece in iter_posts(workspace, posts, columns, PIECE):
        posts_of_piece = keep(piece)
        row_ids = posts_of_piece["row_id"].to_numpy()
        tables = [posts_of_piece, *(reader.read(row_ids) for reader in readers)]
        fields = [field for table in tables for field in table.schema]
        yield pa.table([column for table in tables for column in table.columns], schema=pa.schema(fields))
