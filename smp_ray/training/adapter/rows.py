"""What the adapters read and make: the files of the stage, its columns, and posts with their embeddings."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.config import ADAPTED
from smp_ray.families.base import IMAGE_EMBEDDING, TITLE_EMBEDDING, Column
from smp_ray.store.join import vectors
from smp_ray.store.parquet import PartWriter
from smp_ray.store.reader import FamilyReader
from smp_ray.store.workspace import Workspace

#: What lies in the folder of a training, besides the data: the input and Ray Train's checkpoints, both deleted at the
#: end, how far the epochs are, what they gave, and the trained adapters, written last.
INPUT, TRAIN, PROGRESS = "input", "train", "progress.json"
HISTORY, ADAPTERS = "history.parquet", "adapters.safetensors"
#: What the adapters make of a post's embeddings.
ADAPTED_COLUMNS = (
    Column(f"{ADAPTED}_image", None, group=ADAPTED, role=IMAGE_EMBEDDING),
    Column(f"{ADAPTED}_title", None, group=ADAPTED, role=TITLE_EMBEDDING),
    Column(f"{ADAPTED}_similarity", pa.float32(), group=ADAPTED),
    Column(f"{ADAPTED}_prediction", pa.float32(), group=ADAPTED),
)
#: Posts read at once.
PIECE = 16_384


@dataclass(frozen=True)
class Embeddings:
    """Where the posts' embeddings are: a reader of the family that embeds, and its two columns."""

    reader: FamilyReader
    image: str
    title: str

    def read(self, row_ids: np.ndarray) -> pa.Table:
        """Columns `image` and `title`, one row an id, null where there is none."""
        return self.reader.read(row_ids).select([self.image, self.title]).rename_columns(["image", "title"])


def inputs(table: pa.Table) -> dict[str, np.ndarray]:
    """What an adapter is given: float16 (n, width), zero where there is none, and bool (n,), where there is one."""
    found = {name: vectors(table[name]) for name in ("image", "title")}
    for name, values in list(found.items()):
        found[f"has_{name}"] = table[name].is_valid().to_numpy()
        values[~found[f"has_{name}"]] = 0
    return found


def write_input(embeddings: Embeddings, workspace: Workspace, folder: str, row_ids: np.ndarray) -> np.ndarray:
    """Write posts, with their position among all, as Parquet files that Ray Data streams, in bounded memory.

    Returns:
        Which posts are written, bool (posts,): those that have an embedding.
    """
    workspace.delete_dir(folder)  # of an interrupted run
    schema = embeddings.read(row_ids[:0]).schema.append(pa.field("position", pa.int64()))
    found = np.zeros(len(row_ids), dtype=bool)
    with PartWriter(workspace, f"{folder}/part-{{:05d}}.parquet", schema, compression="none") as writer:
        for start in range(0, len(row_ids), PIECE):
            table = embeddings.read(row_ids[start : start + PIECE])
            table = table.append_column("position", pa.array(np.arange(start, start + len(table))))
            table = table.filter(pc.or_(table["image"].is_valid(), table["title"].is_valid()))
            found[table["position"].to_numpy()] = True
            writer.write(table)
    return found
