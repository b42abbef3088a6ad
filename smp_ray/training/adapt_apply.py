"""From trained adapters to the `adapted` family: one row a post, each adapted by what never saw its label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smp_ray.schema import KEYS, NO_IMAGE, NO_TEXT, OK, family_fields
from smp_ray.store import FamilyReader
from smp_ray.training.adapt_data import fixed_lists, vectors
from smp_ray.training.adapt_plan import MEAN_OF_FOLDS
from smp_ray.workspace import Fragment, Workspace

#: Posts adapted at once.
ROWS = 2048


@dataclass(frozen=True)
class Assigned:
    """The adapter of each labelled post: int64 ids, sorted, and int16 adapters; other posts take the mean."""

    row_ids: np.ndarray
    adapter: np.ndarray

    @classmethod
    def of(cls, row_ids: np.ndarray, adapter: np.ndarray) -> Assigned:
        """From ids in any order."""
        order = np.argsort(row_ids)
        return cls(row_ids[order], adapter[order])

    def find(self, row_ids: np.ndarray) -> np.ndarray:
        """The adapter of each post, int64 (n,)."""
        at = np.minimum(np.searchsorted(self.row_ids, row_ids), len(self.row_ids) - 1)
        return np.where(self.row_ids[at] == row_ids, self.adapter[at], MEAN_OF_FOLDS).astype(np.int64)


def apply_fragment(
    weights: bytes, reader: FamilyReader, workspace: Workspace, posts: Fragment, assigned: Assigned, path: str
) -> tuple[Fragment, dict[str, int]]:
    """Adapt the posts of one file of the posts table; runs as a Ray task, in bounded memory.

    Args:
        weights: of the adapters, as `AdapterBank.to_bytes` made them.
        reader: of the clip family.
        workspace: where posts lie and `path` goes.
        posts: the file.
        assigned: which adapter each labelled post takes.
        path: of the file to write, relative to the workspace; an old one is replaced.

    Returns:
        The file, and its rows by status.
    """
    import torch

    from smp_ray.models.adapter import AdapterBank

    torch.set_num_threads(1)  # as many of these tasks run as there are CPUs
    bank = AdapterBank.from_bytes(weights).eval()
    schema = pa.schema([*KEYS, *family_fields("adapted", bank.shape.width)])
    counts: dict[str, int] = {}
    full = workspace.path(path)
    with (
        workspace.filesystem.open_input_file(workspace.path(posts.path)) as file,
        pq.ParquetWriter(full, schema, filesystem=workspace.filesystem, compression="zstd") as writer,
    ):
        for keys in pq.ParquetFile(file).iter_batches(batch_size=ROWS, columns=KEYS.names):
            table = adapt_rows(bank, reader, keys, assigned, schema)
            for entry in pc.value_counts(table["adapted_status"].combine_chunks()).to_pylist():
                counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
            writer.write_table(table)
    return Fragment(path, sum(counts.values()), workspace.filesystem.get_file_info(full).size), counts


def adapt_rows(
    bank: Any, reader: FamilyReader, keys: pa.RecordBatch, assigned: Assigned, schema: pa.Schema
) -> pa.Table:
    """The adapted family of some posts.

    Args:
        bank: an `AdapterBank`.
        reader: of the clip family.
        keys: row_id and post_id.
        assigned: which adapter each labelled post takes.
        schema: of the result.
    """
    import torch

    row_ids = keys["row_id"].to_numpy()
    clip = reader.read(row_ids)
    image, has_image = vectors(clip["clip_image"], bank.shape.width)
    title, has_title = vectors(clip["clip_title"], bank.shape.width)
    inputs = [torch.from_numpy(values).float() for values in (image, title, has_image, has_title)]
    adapted = bank.apply_to(torch.from_numpy(assigned.find(row_ids)), *inputs)
    status = np.where(~has_image, NO_IMAGE, np.where(has_title, OK, NO_TEXT))
    columns = [
        keys["row_id"],
        keys["post_id"],
        fixed_lists(adapted.image.numpy().astype(np.float16), ~has_image),
        fixed_lists(adapted.title.numpy().astype(np.float16), ~has_title),
        pa.array(adapted.similarity.numpy(), mask=~(has_image & has_title)),
        pa.array(adapted.prediction.numpy(), mask=~(has_image | has_title)),
        pa.array(status),
        pa.nulls(len(row_ids), pa.string()),
    ]
    return pa.Table.from_arrays(columns, names=schema.names).cast(schema)
