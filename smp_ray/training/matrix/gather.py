"""Reads what the matrix is made of: posts table and stored families, joined by row id.

Which family and column a group is read from follows from the families' own columns.
"""

from collections.abc import Mapping, Sequence

from smp_ray.config import ADAPTED, METADATA, TEXT
from smp_ray.families.registry import find
from smp_ray.store.manifest import Manifest
from smp_ray.store.reader import FamilyReader, iter_posts
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.rows import ADAPTED_COLUMNS
from smp_ray.training.matrix.columns import Columns, as_object, concatenated
from smp_ray.training.matrix.post_columns import add_metadata, texts_of
from smp_ray.training.matrix.text import hashed_counts

#: Posts read at once.
PIECE = 50_000


def load_columns(
    workspace: Workspace, posts: Manifest, stored: Mapping[str, Manifest], groups: Sequence[str]
) -> Columns:
    """Read the columns of some groups for every post of a posts artefact.

    Args:
        workspace: where posts and store lie.
        posts: the posts artefact.
        stored: the committed artefacts that hold the groups' columns, by family.
        groups: of the matrix, in its order.
    """
    readers = {name: FamilyReader(workspace, manifest) for name, manifest in stored.items()}
    pieces: list[Columns] = []
    for table in iter_posts(workspace, posts, None, PIECE):
        if "image_bytes" in table.column_names:
            table = table.drop_columns(["image_bytes"])
        piece = Columns(table["row_id"].to_numpy(), as_object(table["post_id"]), as_object(table["user_id"]))
        if METADATA in groups:
            add_metadata(piece, table)
        if TEXT in groups:
            piece.counts = hashed_counts(texts_of(table))
        read = {name: reader.read(piece.row_ids) for name, reader in readers.items()}
        for group in groups:
            for name, family in read.items():
                for column in ADAPTED_COLUMNS if name == ADAPTED else find(name).columns:
                    if column.group == group:
                        piece.put_arrow(group, column.name, family[column.name])
        pieces.append(piece)
    return concatenated(pieces)
