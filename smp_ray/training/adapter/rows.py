"""What the adapters learn from: labelled posts with their embeddings, labels and roles, in one fixed random order.

The order is that of a hash of the row id, so it depends on no worker, file or batch. It is made by a card sorter's two
passes: posts are dealt into files by the leading bits of their hash, then each file is sorted by itself.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from smp_ray.config import AdapterConfig
from smp_ray.store.join import vector_column, vectors
from smp_ray.store.parquet import PartWriter, read_table
from smp_ray.store.reader import FamilyReader
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.plan import mixed, plan_adapters
from smp_ray.training.splits import Splits

#: What lies in the folder of a training, besides the data: the input and Ray Train's checkpoints, both deleted at the
#: end, how far the epochs are, what they gave, and the trained adapters, written last.
INPUT, TRAIN, PROGRESS = "input", "train", "progress.json"
HISTORY, ADAPTERS = "history.parquet", "adapters.safetensors"
#: Posts read at once.
PIECE = 16_384
#: Size that a file of the input has about; it is sorted in memory.
FILE_BYTES = 256 * 2**20
#: Written last into the input folder: without it the files are not there.
MARKER = "input.json"


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
        image, has_image = embedded(table[self.image])
        title, has_title = embedded(table[self.title])
        return image, title, has_image, has_title


@dataclass(frozen=True)
class AdapterInput:
    """The files that the adapters learn from, and what the training must know of them.

    Attributes:
        files: relative to the workspace, in the order in which they are read.
        rows: posts in them: labelled, with an image or a title.
        width: of the embeddings.
        label_mean, label_std: of each adapter's own training labels.
        trains, held_out: number of posts of each adapter.
    """

    files: list[str]
    rows: int
    width: int
    label_mean: list[float]
    label_std: list[float]
    trains: list[int]
    held_out: list[int]

    @property
    def row_bytes(self) -> int:
        """Memory that a post takes in a worker: two float16 embeddings, label, flags, roles and id."""
        return 4 * self.width + 4 + 2 + len(self.trains) + 8


def input_schema(width: int, adapters: int) -> pa.Schema:
    """Columns of an input file; a missing embedding is zero and its flag false."""
    return pa.schema(
        [
            pa.field("row_id", pa.int64(), nullable=False),
            pa.field("image", pa.list_(pa.float16(), width), nullable=False),
            pa.field("title", pa.list_(pa.float16(), width), nullable=False),
            pa.field("has_image", pa.bool_(), nullable=False),
            pa.field("has_title", pa.bool_(), nullable=False),
            pa.field("popularity", pa.float32(), nullable=False),
            pa.field("roles", pa.list_(pa.uint8(), adapters), nullable=False),
        ]
    )


def shuffle_key(row_ids: np.ndarray, seed: int) -> np.ndarray:
    """What the input is ordered by, uint64 (n,)."""
    return mixed(row_ids, seed)


def write_input(
    embeddings: Embeddings, workspace: Workspace, folder: str, splits: Splits, settings: AdapterConfig
) -> AdapterInput | None:
    """Write the input files of one training; runs as a Ray task, in bounded memory.

    Args:
        embeddings: of the posts.
        workspace: where `folder` is.
        folder: of the input, relative to the workspace; what an interrupted run left there is replaced.
        splits: the folds (post ids are not needed).
        settings: of the adapter.

    Returns:
        What was written, or None where no labelled post has an embedding.

    Raises:
        DataError: too few posts for the folds.
    """
    if (done := workspace.read_json(folder, MARKER)) is not None:
        return AdapterInput(**done)
    workspace.delete_dir(folder)
    width = embeddings.width
    count = max(1, -(-len(splits.row_ids) * 4 * width // FILE_BYTES))
    present = _deal(embeddings, workspace, folder, splits, settings.seed, count)
    if not present.any():
        return None
    plan = plan_adapters(splits, settings, present)
    files = _sort(workspace, folder, splits, width, plan.roles, settings.seed, count)
    written = AdapterInput(
        files=files, rows=int(present.sum()), width=width, label_mean=plan.label_mean.tolist(),
        label_std=plan.label_std.tolist(), trains=plan.trains.tolist(), held_out=plan.held_out.tolist(),
    )  # fmt: skip
    workspace.write_json(written.__dict__, folder, MARKER)
    return written


def _deal(
    embeddings: Embeddings, workspace: Workspace, folder: str, splits: Splits, seed: int, count: int
) -> np.ndarray:
    """First pass: posts with an embedding into `count` files by hash; returns which posts have one, bool (posts,)."""
    present = np.zeros(len(splits.row_ids), dtype=bool)
    schema = _dealt_schema(embeddings.width)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(_writer(workspace, _dealt(folder, number), schema)) for number in range(count)]
        for start in range(0, len(splits.row_ids), PIECE):
            positions = np.arange(start, min(start + PIECE, len(splits.row_ids)))
            image, title, has_image, has_title = embeddings.read(splits.row_ids[positions])
            present[positions] = has_image | has_title
            key = shuffle_key(splits.row_ids[positions], seed)
            target = ((key >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)
            for number, writer in enumerate(writers):
                rows = np.flatnonzero((target == number) & present[positions])
                columns = [pa.array(positions[rows]), vector_column(image[rows]), vector_column(title[rows]),
                           pa.array(has_image[rows]), pa.array(has_title[rows])]  # fmt: skip
                writer.write(pa.Table.from_arrays(columns, schema=schema))
    return present


def _sort(
    workspace: Workspace, folder: str, splits: Splits, width: int, roles: np.ndarray, seed: int, count: int
) -> list[str]:
    """Second pass: each dealt file in the order of the hash, with label and roles; the dealt files are deleted."""
    schema, files = input_schema(width, roles.shape[1]), []
    for number in range(count):
        dealt = _dealt(folder, number)
        table = read_table(workspace, dealt)
        positions = table["position"].to_numpy()
        order = np.argsort(shuffle_key(splits.row_ids[positions], seed))
        table, positions = table.take(pa.array(order)), positions[order]
        columns = [
            pa.array(splits.row_ids[positions]),
            *(table[name] for name in ("image", "title", "has_image", "has_title")),
            pa.array(splits.popularity[positions].astype(np.float32)),
            vector_column(roles[positions]),
        ]
        path = f"{folder}/part-{number:05d}.parquet"
        with _writer(workspace, path, schema) as writer:
            writer.write(pa.Table.from_arrays(columns, schema=schema), row_group_size=PIECE)
        workspace.filesystem.delete_file(workspace.path(dealt))
        if table.num_rows:
            files.append(path)
    return files


def embedded(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A column of embeddings as float16 (n, width), zero where there is none, and bool (n,), where there is one."""
    values, present = vectors(column), column.is_valid().to_numpy()
    values[~present] = 0
    return values, present


def _dealt_schema(width: int) -> pa.Schema:
    kept = [field for field in input_schema(width, 1) if field.name in ("image", "title", "has_image", "has_title")]
    return pa.schema([pa.field("position", pa.int64(), nullable=False), *kept])


def _dealt(folder: str, number: int) -> str:
    return f"{folder}/dealt-{number:05d}.parquet"


def _writer(workspace: Workspace, path: str, schema: pa.Schema) -> PartWriter:
    # Embeddings neither compress nor repeat.
    return PartWriter(workspace, path, schema, compression="none", use_dictionary=False)
