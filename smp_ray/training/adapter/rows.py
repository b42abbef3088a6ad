"""What the adapters learn from: labelled posts with their embeddings, as Parquet files that Ray Data streams."""

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
#: Posts read at once.
PIECE = 16_384


@dataclass(frozen=True)
class Embeddings:
    """Where the posts' embeddings are: a reader of the family that embeds, and its two columns."""

    reader: FamilyReader
    image: str
    title: str

    def read(self, row_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Images and titles, float16 (n, width), zero where there is none; for each, bool (n,), where there is one."""
        table = self.reader.read(row_ids)
        (image, has_image), (title, has_title) = (_embedded(table[name]) for name in (self.image, self.title))
        return image, title, has_image, has_title


def write_input(
    embeddings: Embeddings, workspace: Workspace, folder: str, row_ids: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Write those of the labelled posts that have an embedding, with their position among all, in bounded memory.

    Returns:
        The files, relative to the workspace, and which posts are in them, bool (posts,).
    """
    workspace.delete_dir(folder)  # of an interrupted run
    embedding = embeddings.reader.schema.field(embeddings.image).type
    types = {"position": pa.int64(), "image": embedding, "title": embedding, "has_image": pa.bool_(),
             "has_title": pa.bool_()}  # fmt: skip
    schema = pa.schema(list(types.items()))
    found = np.zeros(len(row_ids), dtype=bool)
    with PartWriter(workspace, f"{folder}/part-{{:05d}}.parquet", schema, compression="none") as writer:
        for start in range(0, len(row_ids), PIECE):
            image, title, *flags = embeddings.read(row_ids[start : start + PIECE])
            present = np.flatnonzero(flags[0] | flags[1])
            found[start + present] = True
            columns = [pa.array(start + present), vector_column(image[present]), vector_column(title[present]),
                       *(pa.array(flag[present]) for flag in flags)]  # fmt: skip
            writer.write(pa.Table.from_arrays(columns, names=schema.names).cast(schema))
    return [fragment.path for fragment in writer.fragments], found


def _embedded(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    values, present = vectors(column), column.is_valid().to_numpy()
    values[~present] = 0
    return values, present
