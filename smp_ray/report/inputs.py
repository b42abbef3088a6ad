"""What the report reads: one frame with a row a post, and the committed artefacts, whichever of them there are.

Only numbers, keys and titles are kept for all posts; embeddings, descriptions and images are read for sampled posts
alone. The artefacts of the training are told by what they hold, so that the report knows no stage by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.config import Config
from smp_ray.families.base import IMAGE, Measure
from smp_ray.families.registry import columns_of, find
from smp_ray.store.join import locate, taken
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import read_table
from smp_ray.store.reader import iter_posts, read_columns
from smp_ray.store.workspace import Workspace
from smp_ray.training.measure import METRICS_FILE

_PIECE = 65_536
#: Rows a piece where a row may hold an encoded image.
_FEW = 256
#: Posts times resamples of one interval at most: some seconds of sorting.
_RESAMPLED_POSTS = 32_000_000
_POSTS = ["row_id", "post_id", "user_id", "split", "title", "posted_at", "category", "popularity"]
_FOLDS, _FINAL, _TRIALS = "splits.parquet", "final.parquet", "trials.parquet"


@dataclass
class Inputs:
    """One workspace's data as the sections of the report see it.

    Attributes:
        config: the resolved configuration.
        workspace: where the artefacts lie.
        posts: the committed posts.
        store: the committed feature families by name.
        used: the other artefacts by their stage's name, None where there is none.
        published: frames that sections publish; each becomes a CSV file of this name.
    """

    config: Config
    workspace: Workspace
    posts: Manifest
    store: Mapping[str, Manifest]
    used: Mapping[str, Manifest | None]
    published: dict[str, pd.DataFrame] = field(default_factory=dict)

    def publish(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Have a figure's numbers written as `<name>.csv`; returns them."""
        self.published[name] = frame
        return frame

    def resamples(self, posts: int) -> int:
        """Bootstrap resamples for so many posts: those configured, fewer where they would take minutes."""
        return max(min(self.config.training.resamples, _RESAMPLED_POSTS // max(posts, 1)), 100)

    @cached_property
    def measures(self) -> dict[str, Measure]:
        """The stored families' measures by column, in the store's order."""
        return {name: column.measure for name, column in columns_of(self.store).items() if column.measure is not None}

    @cached_property
    def image_statuses(self) -> list[str]:
        """Columns of `frame` that say what became of each post's image."""
        return [f"{name}_status" for name in self.store if IMAGE in find(name).reads]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row a post in the order of ingest: the posts' columns, the measures and `<family>_status`."""
        table = pa.concat_tables(list(iter_posts(self.workspace, self.posts, _POSTS, _PIECE)))
        frame = table.to_pandas()
        row_ids = frame["row_id"].to_numpy()
        for manifest in self.store.values():
            found = read_columns(self.workspace, manifest, list(self.measures), row_ids)
            for column in found.column_names:
                frame[column] = found[column].to_pandas()
        return frame

    def measured(self, frame: pd.DataFrame) -> list[str]:
        """The measures that some post of a frame has."""
        return [name for name in self.measures if frame[name].notna().any()]

    def speaking(self, known: Iterable[str]) -> list[str]:
        """Of the measures of each topic the first that is among those known."""
        first: dict[str, str] = {}
        for name in self.measures:
            if self.measures[name].topic and name in known:
                first.setdefault(self.measures[name].topic, name)
        return list(first.values())

    @cached_property
    def labelled(self) -> bool:
        """Whether any post has a popularity."""
        return bool(self.frame["popularity"].notna().any())

    @property
    def folds(self) -> Manifest | None:
        """The folds of the labelled posts."""
        return self._used(lambda manifest: _has(manifest, _FOLDS))

    @property
    def adapted(self) -> Manifest | None:
        """The stored family that the adapters made of the embeddings."""
        return self._used(lambda manifest: "covers" in manifest.details)

    @property
    def matrix(self) -> Manifest | None:
        """What the predictor sees."""
        return self._used(lambda manifest: _has(manifest, _FINAL))

    @property
    def sweep(self) -> Manifest | None:
        """The sweep and its final model."""
        return self._used(lambda manifest: _has(manifest, _TRIALS))

    @property
    def ablation(self) -> Manifest | None:
        """The variants that lack a group of columns."""
        return self._used(lambda manifest: "table" in manifest.details)

    def _used(self, which: Callable[[Manifest], bool]) -> Manifest | None:
        return next((manifest for manifest in self.used.values() if manifest is not None and which(manifest)), None)

    @cached_property
    def fold_of(self) -> pd.Series | None:
        """The fold of each labelled post, by row id; None where there are no folds."""
        if self.folds is None:
            return None
        table = read_table(self.workspace, self.folds.file(_FOLDS).path, ["row_id", "fold"])
        return table.to_pandas().set_index("row_id")["fold"]

    @cached_property
    def trials(self) -> pd.DataFrame | None:
        """The sweep's table, a row a trial; None where there was no sweep."""
        return None if self.sweep is None else read_table(self.workspace, self.sweep.file(_TRIALS).path).to_pandas()

    @cached_property
    def predictions(self) -> pd.DataFrame | None:
        """The prediction of each post with `title` and `category` beside it; None where there are none."""
        manifest = self._used(lambda manifest: "predictions" in manifest.details)
        if manifest is None:
            return None
        found = read_table(self.workspace, manifest.details["predictions"]).to_pandas()
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
        found = self.workspace.read_json(METRICS_FILE)
        if found is None:
            return None
        current = {
            part
            for part, fingerprint in found.get("artefacts", {}).items()
            if (manifest := self.used.get(part)) is not None and manifest.fingerprint == fingerprint
        }
        variants = {name: values for name, values in found["variants"].items() if values["from"] in current}
        pairs = [pair for pair in found["differences"] if {pair["variant"], pair["reference"]} <= set(variants)]
        return {**found, "variants": variants, "differences": pairs} if variants else None

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
        return taken(found, locate(row_ids, found["row_id"].to_numpy()))


def _has(manifest: Manifest, name: str) -> bool:
    return any(fragment.path.endswith(f"/{name}") for fragment in manifest.fragments)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
