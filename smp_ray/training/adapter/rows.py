"""What the adapters read and make: the files of the stage, its columns, and posts with their embeddings."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.config import ADAPTED
from smp_ray.families.base import IMAGE_EMBEDDING, TITLE_EMBEDDING, Column
from smp_ray.store.join import vectors
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import PartWriter
from smp_ray.store.workspace import Workspace
from smp_ray.training.examples import example_pieces

#: What lies in the folder of a training, besides the data: the input, deleted at the end, how far the epochs are, what
#: they gave, and the trained adapters, written last.
INPUT, PROGRESS = "input", "progress.json"
HISTORY, ADAPTERS = "history.parquet", "adapters.safetensors"
ADAPTED_PREDICTION = f"{ADAPTED}_prediction"
#: What the adapters make of a post's embeddings.
ADAPTED_COLUMNS = (
    Column(f"{ADAPTED}_image", None, group=ADAPTED, role=IMAGE_EMBEDDING),
    Column(f"{ADAPTED}_title", None, group=ADAPTED, role=TITLE_EMBEDDING),
    Column(f"{ADAPTED}_similarity", pa.float32(), group=ADAPTED),
    Column(ADAPTED_PREDICTION, pa.float32(), group=ADAPTED),
)
#: Posts that a worker reads at once.
PIECE = 16_384


@dataclass(frozen=True)
class Embeddings:
    """Where the labelled posts' embeddings are: the artefact, the family, and its columns of image and title."""

    workspace: Workspace
    labelled: Manifest
    family: str
    columns: tuple[str, str]

    def pieces(self) -> Iterator[pa.Table]:
        """Columns `image` and `title` of all labelled posts in their order, null where there is none."""
        for table in example_pieces(self.workspace, self.labelled, [self.family]):
            yield table.select(self.columns).rename_columns(["image", "title"])


def inputs(table: pa.Table) -> dict[str, np.ndarray]:
    """What an adapter is given: float16 (n, width), zero where there is none, and bool (n,), where there is one."""
    found = {name: vectors(table[name]) for name in ("image", "title")}
    for name, values in list(found.items()):
        found[f"has_{name}"] = table[name].is_valid().to_numpy()
        values[~found[f"has_{name}"]] = 0
    return found


def write_input(embeddings: Embeddings, folder: str) -> tuple[np.ndarray, int]:
    """Write the posts that have an embedding, with their position among all, as Parquet files for Ray Data.

    Returns:
        Which posts are written, bool (posts,), and the width of an embedding.
    """
    workspace = embeddings.workspace
    workspace.delete_dir(folder)  # of an interrupted run
    found: list[np.ndarray] = []
    with ExitStack() as stack:
        writer: PartWriter | None = None
        for table in embeddings.pieces():
            begin = sum(map(len, found))
            table = table.append_column("position", pa.array(np.arange(begin, begin + len(table))))
            if writer is None:
                path = f"{folder}/part-{{:05d}}.parquet"
                writer = stack.enter_context(PartWriter(workspace, path, table.schema, compression="none"))
            found.append(np.asarray(pc.or_(table["image"].is_valid(), table["title"].is_valid())))
            width = int(table.schema.field("image").type.list_size)
            writer.write(table.filter(pa.array(found[-1])))
    return np.concatenate(found), width
