"""One Parquet file of posts joined with all feature families, one row a post, by row id and never by order."""

import os
import tempfile
import uuid
from collections.abc import Iterable, Sequence
from itertools import chain

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from smp_ray.errors import ConfigError
from smp_ray.store.manifest import Manifest
from smp_ray.store.reader import FamilyReader, iter_posts
from smp_ray.store.workspace import Place, Workspace, writing

#: Posts joined at a time: memory stays at some hundred megabytes whatever the size of the store.
PIECE = 20_000


def export(workspace: Workspace, posts: Manifest, families: Iterable[Manifest], out: str) -> int:
    """Write the join to `out` (a local path or a URI) and return its number of rows.

    Columns: those of the posts table (without `image_bytes`), then those of each family. The file appears under its
    name only when it is complete.

    Raises:
        ConfigError: `out` is no name of a Parquet file.
        WorkspaceError: it cannot be written.
    """
    if not out.split("?")[0].endswith((".parquet", ".pq")):
        raise ConfigError(f"--out: found {out}, allowed: a name that ends in .parquet")
    place = Place.open(out)
    if place.kind() == pafs.FileType.Directory:
        raise ConfigError(f"--out: found the folder {out}, allowed: the name of a file")
    readers = [FamilyReader(workspace, manifest) for manifest in families]
    pieces = (_joined(piece, readers) for piece in iter_posts(workspace, posts, None, PIECE))
    # pyarrow's stream to an object store would make an object of what an exception leaves, so the file is finished
    # here before it is uploaded; an upload that is cut off makes no object.
    folder = os.path.dirname(place.root) if place.is_local else tempfile.gettempdir()
    target = os.path.join(folder, f"{os.path.basename(place.root)}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with writing(out):
            os.makedirs(folder, exist_ok=True)
            first = next(pieces)
            with pq.ParquetWriter(target, first.schema, compression="zstd") as writer:
                for table in chain([first], pieces):
                    writer.write_table(table)
            if place.is_local:
                os.replace(target, place.root)
            else:
                pafs.copy_files(target, place.root, pafs.LocalFileSystem(), place.filesystem)
    finally:
        if os.path.exists(target):
            os.remove(target)
    return posts.rows


def _joined(posts: pa.Table, readers: Sequence[FamilyReader]) -> pa.Table:
    row_ids = posts["row_id"].to_numpy()
    tables = [posts.drop_columns(["image_bytes"]), *(reader.read(row_ids) for reader in readers)]
    fields = [field for table in tables for field in table.schema]
    return pa.table([column for table in tables for column in table.columns], schema=pa.schema(fields))
