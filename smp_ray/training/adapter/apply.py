"""From trained adapters to the `adapted` family: one row a post, each adapted by what never saw its label."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smp_ray.config import ADAPTED
from smp_ray.families.base import IMAGE_EMBEDDING, TITLE_EMBEDDING, Column, stored_fields
from smp_ray.schema import KEYS, NO_IMAGE, NO_TEXT, OK
from smp_ray.store.join import locate_sorted, vector_column
from smp_ray.store.manifest import Fragment
from smp_ray.store.parquet import PartWriter
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.plan import MEAN_OF_FOLDS, assign
from smp_ray.training.adapter.rows import Embeddings
from smp_ray.training.splits import Splits

if TYPE_CHECKING:
    from smp_ray.models.adapter import AdapterBank

#: What the adapters make of a post's embeddings.
ADAPTED_COLUMNS = (
    Column(f"{ADAPTED}_image", None, group=ADAPTED, role=IMAGE_EMBEDDING),
    Column(f"{ADAPTED}_title", None, group=ADAPTED, role=TITLE_EMBEDDING),
    Column(f"{ADAPTED}_similarity", pa.float32(), group=ADAPTED),
    Column(f"{ADAPTED}_prediction", pa.float32(), group=ADAPTED),
)
#: Posts adapted at once.
ROWS = 2048


def adapted_fields(width: int) -> list[pa.Field]:
    """The stored columns of what the adapters make of embeddings of some width, status and error last."""
    return stored_fields(ADAPTED, ADAPTED_COLUMNS, width)


#: The adapter of each labelled post: int64 ids, sorted, and int16 adapters; other posts take the mean.
Assigned = tuple[np.ndarray, np.ndarray]


def assigned_adapters(splits: Splits, seed: int) -> Assigned:
    """Which adapter each labelled post takes."""
    order = np.argsort(splits.row_ids)
    return splits.row_ids[order], assign(splits, seed)[order]


def apply_fragment(
    weights: bytes, embeddings: Embeddings, workspace: Workspace, posts: Fragment, assigned: Assigned, path: str
) -> tuple[list[Fragment], dict[str, int]]:
    """Adapt the posts of one file of the posts table into a file at `path`; runs as a Ray task, in bounded memory.

    Returns:
        The file (none where there are no posts), and its rows by status.
    """
    import torch

    from smp_ray.models.adapter import AdapterBank

    torch.set_num_threads(1)  # as many of these tasks run as there are CPUs
    bank = AdapterBank.from_bytes(weights).eval()
    schema = pa.schema([*KEYS, *adapted_fields(bank.shape.width)])
    counts: Counter[str] = Counter()
    with (
        workspace.filesystem.open_input_file(workspace.path(posts.path)) as file,
        PartWriter(workspace, path, schema) as writer,
    ):
        for keys in pq.ParquetFile(file).iter_batches(batch_size=ROWS, columns=KEYS.names):
            table = adapt_rows(bank, embeddings, keys, assigned, schema)
            for entry in pc.value_counts(table[f"{ADAPTED}_status"].combine_chunks()).to_pylist():
                counts[entry["values"]] += entry["counts"]
            writer.write(table)
    return writer.fragments, dict(counts)


def adapt_rows(
    bank: AdapterBank, embeddings: Embeddings, keys: pa.RecordBatch, assigned: Assigned, schema: pa.Schema
) -> pa.Table:
    """The adapted family, in the form of `schema`, of the posts of which `keys` has row_id and post_id."""
    import torch

    row_ids = keys["row_id"].to_numpy()
    image, title, has_image, has_title = embeddings.read(row_ids)
    inputs = [torch.from_numpy(values).float() for values in (image, title, has_image, has_title)]
    at = locate_sorted(row_ids, assigned[0])
    adapter = np.where(at >= 0, assigned[1][at], MEAN_OF_FOLDS)
    adapted = bank.apply_to(torch.from_numpy(adapter), *inputs)
    status = np.where(~has_image, NO_IMAGE, np.where(has_title, OK, NO_TEXT))
    columns = [
        keys["row_id"],
        keys["post_id"],
        vector_column(adapted.image.numpy().astype(np.float16), ~has_image),
        vector_column(adapted.title.numpy().astype(np.float16), ~has_title),
        pa.array(adapted.similarity.numpy(), mask=~(has_image & has_title)),
        pa.array(adapted.prediction.numpy(), mask=~(has_image | has_title)),
        pa.array(status),
        pa.nulls(len(row_ids), pa.string()),
    ]
    return pa.Table.from_arrays(columns, names=schema.names).cast(schema)
