"""What the adapters read and make: the files of the stage, its columns, and posts with their embeddings."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.config import ADAPTED
from smp_ray.families.base import IMAGE_EMBEDDING, TITLE_EMBEDDING, Column
from smp_ray.store.join import vectors
from smp_ray.store.manifest import Manifest
from smp_ray.store.workspace import Workspace
from smp_ray.training.examples import example_files, example_pieces

#: What lies in the folder of a training: how far the epochs are, what they gave, the trained adapters, written last.
PROGRESS, HISTORY, ADAPTERS = "progress.json", "history.parquet", "adapters.safetensors"
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

    @property
    def files(self) -> list[str]:
        """Paths of the files with the columns, and `row_id`, of all labelled posts in their order."""
        return [self.workspace.path(file.path) for file in example_files(self.labelled, self.family)]

    def present(self) -> tuple[np.ndarray, int]:
        """Which labelled posts have an embedding, bool (posts,), and the width of one."""
        found, width = [], 0
        for table in example_pieces(self.workspace, self.labelled, [self.family]):
            image, title = (table[name] for name in self.columns)
            found.append(pc.or_(image.is_valid(), title.is_valid()).to_numpy())
            width = image.type.list_size
        return np.concatenate(found), width


def inputs(table: pa.Table, columns: tuple[str, str]) -> dict[str, np.ndarray]:
    """What an adapter is given: float16 (n, width), zero where there is none, and bool (n,), where there is one.

    `columns` are those of the embeddings of image and title.
    """
    table = table.select(columns).rename_columns(["image", "title"])
    found = {name: vectors(table[name]) for name in ("image", "title")}
    for name, values in list(found.items()):
        found[f"has_{name}"] = table[name].is_valid().to_numpy()
        values[~found[f"has_{name}"]] = 0
    return found
