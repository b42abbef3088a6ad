"""One Parquet file of posts joined with all feature families, one row a post, by row id and never by order."""

from __future__ import annotations

import os
import uuid

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from smp_ray.config import Config, Family
from smp_ray.errors import ConfigError, SmpRayError
from smp_ray.features.store import covers, family_keys
from smp_ray.schema import StoredFamily
from smp_ray.store import FamilyReader, iter_posts
from smp_ray.workspace import Manifest, Workspace, open_location

#: Posts joined at a time: memory stays at some hundred megabytes whatever the size of the store.
PIECE = 20_000


def finished_families(config: Config, workspace: Workspace, posts: Manifest) -> dict[Family, Manifest]:
    """Manifests of all configured families.

    Raises:
        SmpRayError: a family is not computed for every post.
    """
    found: dict[Family, Manifest] = {}
    for family, key in family_keys(config).items():
        manifest = workspace.manifest(key.stage, key.fingerprint)
        if manifest is None or posts.fingerprint not in manifest.details.get("covers", {}):
            raise SmpRayError(f"{family}: not computed for these posts; run `smp-ray features` first")
        if not covers(manifest, posts.fingerprint):
            raise SmpRayError(f"{family}: some posts have status error; run `smp-ray features` again first")
        found[family] = manifest
    return found


def export(config: Config, workspace: Workspace, posts: Manifest, out: str, adapted: Manifest | None = None) -> int:
    """Write the join to `out` (a local path or a URI) and return its number of rows.

    Columns: those of the posts table (without `image_bytes`), then caption, clip and perplexity as configured, then
    what the adapters made of them, where that is given. The file appears under its name only when it is complete.
    """
    found: dict[StoredFamily, Manifest] = dict(finished_families(config, workspace, posts).items())
    if adapted is not None:
        found["adapted"] = adapted
    readers = [FamilyReader(workspace, manifest, family) for family, manifest in found.items()]
    if not out.split("?")[0].endswith((".parquet", ".pq")):
        raise ConfigError(f"--out: found {out}, allowed: a name that ends in .parquet")
    filesystem, path = open_location(out)
    if filesystem.get_file_info(path).type == pafs.FileType.Directory:
        raise ConfigError(f"--out: found the folder {out}, allowed: the name of a file")
    try:
        return _write(workspace, posts, readers, filesystem, path)
    except OSError as error:
        raise SmpRayError(f"{out}: cannot be written: {' '.join(str(error).split())}") from error


def _write(
    workspace: Workspace, posts: Manifest, readers: list[FamilyReader], filesystem: pafs.FileSystem, path: str
) -> int:
    local = isinstance(filesystem, pafs.LocalFileSystem)
    if local:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    target = f"{path}.{uuid.uuid4().hex[:8]}.tmp" if local else path
    rows = 0
    writer: pq.ParquetWriter | None = None
    try:
        for piece in iter_posts(workspace, posts, None, PIECE):
            table = _joined(piece, readers)
            if writer is None:
                writer = pq.ParquetWriter(target, table.schema, filesystem=filesystem, compression="zstd")
            writer.write_table(table)
            rows += table.num_rows
        if writer is not None:
            writer.close()
        if local:
            os.replace(target, path)
    finally:
        if local and os.path.exists(target):
            os.remove(target)
    return rows


def _joined(posts: pa.Table, readers: list[FamilyReader]) -> pa.Table:
    row_ids = posts["row_id"].to_numpy()
    table = posts.drop_columns(["image_bytes"])
    for reader in readers:
        columns = reader.read(row_ids)
        for name in columns.column_names:
            table = table.append_column(columns.schema.field(name), columns[name])
    return table
