"""What the report reads: one frame with a row a post, and the committed artefacts, whichever of them there are.

Only numbers, keys and titles are kept for all posts; embeddings, captions and images are read for sampled posts alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.config import Config, Family
from smp_ray.schema import StoredFamily, family_fields
from smp_ray.store import iter_posts
from smp_ray.workspace import Manifest, Workspace

_PIECE = 65_536
#: Rows a piece where a row may hold an encoded image.
_FEW = 256
#: Posts times resamples of one interval at most: some seconds of sorting.
_RESAMPLED_POSTS = 32_000_000
_POSTS = ["row_id", "post_id", "user_id", "split", "title", "posted_at", "category", "popularity"]
SIMILARITIES = ("similarity_title_caption", "similarity_image_title", "similarity_image_caption")
#: Columns of each family that are read for all posts, besides its status.
_SCALARS: dict[Family, tuple[str, ...]] = {
    "caption": (), "clip": SIMILARITIES, "perplexity": ("title_perplexity", "title_mean_nll"),
}  # fmt: skip


@dataclass
class Inputs:
    """One workspace's data as the sections of the report see it."""

    config: Config
    workspace: Workspace
    posts: Manifest
    families: Mapping[Family, Manifest]
    artefacts: Mapping[str, Manifest | None]
    #: Frames that sections publish; each becomes a CSV file of this name.
    published: dict[str, pd.DataFrame] = field(default_factory=dict)

    def publish(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Have a figure's numbers written as `<name>.csv`; returns them."""
        self.published[name] = frame
        return frame

    def resamples(self, posts: int) -> int:
        """Bootstrap resamples for so many posts: those configured, fewer where they would take minutes."""
        return max(min(self.config.training.resamples, _RESAMPLED_POSTS // max(posts, 1)), 100)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row a post in the order of ingest: the posts' columns, the families' numbers and `<family>_status`."""
        table = pa.concat_tables(list(iter_posts(self.workspace, self.posts, _POSTS, _PIECE)))
        frame = table.to_pandas()
        row_ids = frame["row_id"].to_numpy()
        for family, manifest in self.families.items():
            wanted = [*_SCALARS[family], f"{family}_status"]
            found = read_family(self.workspace, manifest, family, wanted, row_ids)
            for column in wanted:
                frame[column] = found[column].to_pandas()
        return frame

    @cached_property
    def labelled(self) -> bool:
        """Whether any post has a popularity."""
        return bool(self.frame["popularity"].notna().any())

    @cached_property
    def predictions(self) -> pd.DataFrame | None:
        """The predict stage's table with `title` and `category` beside it; None where it was not run."""
        manifest = self.artefacts.get("predict")
        if manifest is None:
            return None
        path = self.workspace.path(manifest.details["predictions"])
        found = pq.read_table(path, filesystem=self.workspace.filesystem).to_pandas()
        return found.merge(self.frame[["row_id", "title", "category"]], on="row_id", how="left", validate="1:1")

    @cached_property
    def judged(self) -> pd.DataFrame | None:
        """The predictions that can be held against a label: out of fold, of labelled posts; None where there are none.

        Column `error` is prediction minus popularity.
        """
        if self.predictions is None:
            return None
        found = self.predictions
        kept = found[(found["source"] == "out_of_fold") & found["popularity"].notna() & found["prediction"].notna()]
        return kept.assign(error=kept["prediction"] - kept["popularity"]) if len(kept) else None

    @cached_property
    def metrics(self) -> dict[str, Any] | None:
        """`metrics.json`, its parts that belong to the committed artefacts only; None where there is none."""
        found = self.workspace.read_json("metrics.json")
        if found is None:
            return None
        current = {
            part
            for part, fingerprint in found.get("artefacts", {}).items()
            if (manifest := self.artefacts.get(part)) is not None and manifest.fingerprint == fingerprint
        }
        variants = {name: values for name, values in found["variants"].items() if values["from"] in current}
        pairs = [pair for pair in found["differences"] if {pair["variant"], pair["reference"]} <= set(variants)]
        return {**found, "variants": variants, "differences": pairs} if variants else None

    @cached_property
    def trials(self) -> pd.DataFrame | None:
        """The sweep's table, a row a trial; None where there was no sweep."""
        manifest = self.artefacts.get("tune")
        if manifest is None:
            return None
        path = next(f.path for f in manifest.fragments if f.path.endswith("/trials.parquet"))
        return pq.read_table(self.workspace.path(path), filesystem=self.workspace.filesystem).to_pandas()

    def post_columns(self, row_ids: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Columns of the posts table for some posts, in the order of `row_ids`."""
        parts = []
        for fragment in self.posts.fragments:
            with self.workspace.filesystem.open_input_file(self.workspace.path(fragment.path)) as file:
                parquet = pq.ParquetFile(file)
                for group in range(parquet.num_row_groups):
                    ids = parquet.read_row_group(group, columns=["row_id"])["row_id"].to_numpy()
                    if not np.isin(ids, row_ids).any():
                        continue  # encoded images are read only where a wanted post lies
                    for batch in parquet.iter_batches(_FEW, row_groups=[group], columns=["row_id", *columns]):
                        kept = pa.array(np.isin(batch["row_id"].to_numpy(), row_ids))
                        parts.append(pa.Table.from_batches([batch.filter(kept)]))
        found = pa.concat_tables(parts)
        order = np.argsort(found["row_id"].to_numpy())
        ids = found["row_id"].to_numpy()[order]
        return found.take(pa.array(order[np.searchsorted(ids, row_ids)]))

    def family_columns(self, family: StoredFamily, columns: Sequence[str], row_ids: np.ndarray) -> pa.Table | None:
        """A family's columns for some posts, in the order of `row_ids`; None where the family is not there."""
        manifest = self.artefacts.get("adapted") if family == "adapted" else self.families.get(family)
        return None if manifest is None else read_family(self.workspace, manifest, family, columns, row_ids)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def read_family(
    workspace: Workspace, manifest: Manifest, family: StoredFamily, columns: Sequence[str], row_ids: np.ndarray
) -> pa.Table:
    """Columns of a stored family for given posts: one row an id and in their order, null where the store has none.

    The store's own reader takes all columns of a fragment; here only those asked for leave the disk, piece by piece,
    so that the embeddings of a few posts cost the memory of a few posts.
    """
    width = int(manifest.details.get("clip_width", 0))
    status = f"{family}_status"
    wanted = list(dict.fromkeys([status, *columns]))
    schema = pa.schema([entry for entry in family_fields(family, width) if entry.name in wanted])
    order = np.argsort(row_ids)
    ordered = row_ids[order]
    parts, places = [schema.empty_table()], [np.zeros(0, np.int64)]
    for fragment in manifest.fragments:
        with workspace.filesystem.open_input_file(workspace.path(fragment.path)) as file:
            for batch in pq.ParquetFile(file).iter_batches(_PIECE, columns=["row_id", *schema.names]):
                ids = batch["row_id"].to_numpy()
                place = np.minimum(np.searchsorted(ordered, ids), max(len(ordered) - 1, 0))
                keep = batch[status].is_valid().to_numpy(zero_copy_only=False)
                keep &= (ordered[place] == ids) if len(ordered) else False
                part = pa.Table.from_batches([batch.filter(pa.array(keep))]).select(schema.names)
                parts.append(part.cast(schema))
                places.append(order[place[keep]])
    every = np.concatenate(places)
    row_of = np.full(len(row_ids), -1)
    row_of[every] = np.arange(len(every))  # where a post occurs twice, the later fragment holds
    return pa.concat_tables(parts).take(pa.array(row_of, mask=row_of < 0))
