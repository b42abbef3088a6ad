"""What the adapters learn from: labelled posts with their embeddings, labels and roles, in one fixed random order.

The order is that of a hash of the row id, so it depends on no worker, file or batch. It is made by a card sorter's two
passes: posts are dealt into files by the leading bits of their hash, then each file is sorted by itself.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.config import AdapterConfig
from smp_ray.store import FamilyReader
from smp_ray.training.adapt_plan import mixed, plan_adapters
from smp_ray.training.splits import Splits
from smp_ray.workspace import Workspace

#: What lies in the folder of a training, besides the data: the input and Ray Train's checkpoints, both deleted at the
#: end, how far the epochs are, what they gave, and the trained adapters, written last.
INPUT, TRAIN, PROGRESS = "input", "train", "train/progress.json"
HISTORY, ADAPTERS = "history.parquet", "adapters.safetensors"
#: Posts read at once.
PIECE = 16_384
#: Size that a file of the input has about; it is sorted in memory.
FILE_BYTES = 256 * 2**20
#: Written last into the input folder: without it the files are not there.
MARKER = "input.json"


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
    reader: FamilyReader, workspace: Workspace, folder: str, splits: Splits, width: int, settings: AdapterConfig
) -> AdapterInput | None:
    """Write the input files of one training; runs as a Ray task, in bounded memory.

    Args:
        reader: of the clip family.
        workspace: where `folder` is.
        folder: of the input, relative to the workspace; what an interrupted run left there is replaced.
        splits: the folds (post ids are not needed).
        width: of the embeddings.
        settings: of the adapter.

    Returns:
        What was written, or None where no labelled post has an embedding.

    Raises:
        DataError: too few posts for the folds.
    """
    if (done := workspace.read_json(folder, MARKER)) is not None:
        return AdapterInput(**done)
    workspace.delete_dir(folder)
    workspace.make_dir(folder)
    count = max(1, -(-len(splits.row_ids) * 4 * width // FILE_BYTES))
    present = _deal(reader, workspace, folder, splits, width, settings.seed, count)
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
    reader: FamilyReader, workspace: Workspace, folder: str, splits: Splits, width: int, seed: int, count: int
) -> np.ndarray:
    """First pass: posts with an embedding into `count` files by hash; returns which posts have one, bool (posts,)."""
    present = np.zeros(len(splits.row_ids), dtype=bool)
    schema = _dealt_schema(width)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(_writer(workspace, _dealt(folder, number), schema)) for number in range(count)]
        for start in range(0, len(splits.row_ids), PIECE):
            positions = np.arange(start, min(start + PIECE, len(splits.row_ids)))
            table = reader.read(splits.row_ids[positions])
            image, has_image = vectors(table["clip_image"], width)
            title, has_title = vectors(table["clip_title"], width)
            present[positions] = has_image | has_title
            key = shuffle_key(splits.row_ids[positions], seed)
            target = ((key >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)
            for number, writer in enumerate(writers):
                rows = np.flatnonzero((target == number) & present[positions])
                columns = [pa.array(positions[rows]), fixed_lists(image[rows]), fixed_lists(title[rows]),
                           pa.array(has_image[rows]), pa.array(has_title[rows])]  # fmt: skip
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return present


def _sort(
    workspace: Workspace, folder: str, splits: Splits, width: int, roles: np.ndarray, seed: int, count: int
) -> list[str]:
    """Second pass: each dealt file in the order of the hash, with label and roles; the dealt files are deleted."""
    schema, files = input_schema(width, roles.shape[1]), []
    for number in range(count):
        dealt = workspace.path(_dealt(folder, number))
        table = pq.read_table(dealt, filesystem=workspace.filesystem, partitioning=None)
        positions = table["position"].to_numpy()
        order = np.argsort(shuffle_key(splits.row_ids[positions], seed))
        table, positions = table.take(pa.array(order)), positions[order]
        columns = [
            pa.array(splits.row_ids[positions]),
            *(table[name] for name in ("image", "title", "has_image", "has_title")),
            pa.array(splits.popularity[positions].astype(np.float32)),
            fixed_lists(roles[positions]),
        ]
        path = f"{folder}/part-{number:05d}.parquet"
        with _writer(workspace, path, schema) as writer:
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=PIECE)
        workspace.filesystem.delete_file(dealt)
        if table.num_rows:
            files.append(path)
    return files


def vectors(column: pa.ChunkedArray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A column of fixed-size lists as float16 (n, width), zero where null, and bool (n,) where it is not null."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    valid = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
    out = np.zeros((len(array), width), dtype=np.float16)
    out[valid] = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)  # flatten leaves nulls out
    return out, valid


def fixed_lists(values: np.ndarray, missing: np.ndarray | None = None) -> pa.FixedSizeListArray:
    """The inverse of `vectors`: an array (n, width) as fixed-size lists, null where `missing`, bool (n,)."""
    mask = None if missing is None else pa.array(missing)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)


def _dealt_schema(width: int) -> pa.Schema:
    kept = [field for field in input_schema(width, 1) if field.name in ("image", "title", "has_image", "has_title")]
    return pa.schema([pa.field("position", pa.int64(), nullable=False), *kept])


def _dealt(folder: str, number: int) -> str:
    return f"{folder}/dealt-{number:05d}.parquet"


def _writer(workspace: Workspace, path: str, schema: pa.Schema) -> Any:
    # Embeddings neither compress nor repeat.
    return pq.ParquetWriter(
        workspace.path(path), schema, filesystem=workspace.filesystem, compression="none", use_dictionary=False
    )
