"""What the adapters learn from: labelled posts with their embeddings, as Parquet files that Ray Data streams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from smp_ray.store.join import vector_column, vectors
from smp_ray.store.parquet import PartWriter
from smp_ray.store.reader import FamilyReader
from smp_ray.store.workspace import Workspace

#: What lies in the folder of a training, besides the data: the input and Ray Train's checkpoints, both deleted at the
#: end, how far the epochs are, what they gave, and the trained adapters, written last.
INPUT, TRAIN, PROGRESS = "input", "train", "progress.json"
HISTORY, ADAPTERS = "history.parquet", "adapters.safetensors"
#: Written last into the input folder: without it the files are not there.
MARKER = "input.json"
#: Posts read at once.
PIECE = 16_384


@dataclass(frozen=True)
class Embeddings:
    """Where the posts' embeddings are: a reader of the family that embeds, and its two columns."""

    reader: FamilyReader
    image: str
    title: str

    @property
    def width(self) -> int:
        """Width of each."""
        return int(self.reader.schema.field(self.image).type.list_size)

    def read(self, row_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Images and titles, float16 (n, width), zero where there is none; for each, bool (n,), where there is one."""
        table = self.reader.read(row_ids)
        image, has_image = _embedded(table[self.image])
        title, has_title = _embedded(table[self.title])
        return image, title, has_image, has_title


def input_schema(width: int) -> pa.Schema:
    """Columns of an input file: `position` among the labelled posts; a missing embedding is zero, its flag false."""
    embedding = pa.list_(pa.float16(), width)
    columns = {"position": pa.int64(), "image": embedding, "title": embedding, "has_image": pa.bool_(),
               "has_title": pa.bool_()}  # fmt: skip
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def write_input(embeddings: Embeddings, workspace: Workspace, folder: str, row_ids: np.ndarray) -> list[str]:
    """Write those of the labelled posts that have an embedding, in bounded memory.

    Args:
        embeddings: of the posts.
        workspace: where `folder` is.
        folder: of the input, relative to the workspace; what is complete there is kept.
        row_ids: int64 (posts,), of the labelled posts.

    Returns:
        The files, relative to the workspace.
    """
    if (done := workspace.read_json(folder, MARKER)) is not None:
        return list(done)
    workspace.delete_dir(folder)
    schema = input_schema(embeddings.width)
    # Embeddings neither compress nor repeat.
    options = {"compression": "none", "use_dictionary": False}
    with PartWriter(workspace, f"{folder}/part-{{:05d}}.parquet", schema, **options) as writer:
        for start in range(0, len(row_ids), PIECE):
            image, title, has_image, has_title = embeddings.read(row_ids[start : start + PIECE])
            present = np.flatnonzero(has_image | has_title)
            columns = [pa.array(start + present), vector_column(image[present]), vector_column(title[present]),
                       pa.array(has_image[present]), pa.array(has_title[present])]  # fmt: skip
            writer.write(pa.Table.from_arrays(columns, schema=schema))
    files = [fragment.path for fragment in writer.fragments if fragment.rows]
    workspace.write_json(files, folder, MARKER)
    return files


def _embedded(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    values, present = vectors(column), column.is_valid().to_numpy()
    values[~present] = 0
    return values, present
