"""What the report reads: one frame with a row a post, and the committed artefacts, whichever of them there are.

Numbers, keys and titles are kept of at most about `MOST_POSTS` posts, some 1 KB each: of more, of a sample of whole
users. Embeddings, descriptions and images are read for few posts alone. The artefacts of the training are told by what
they hold, so that the report knows no stage by its name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from smp_ray.analysis.intervals import rounded_quantiles
from smp_ray.config import Config
from smp_ray.families.base import Measure
from smp_ray.families.registry import columns_of
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import in_turn, read_table
from smp_ray.store.reader import iter_posts, read_columns
from smp_ray.store.workspace import Workspace
from smp_ray.training.measure import METRICS_FILE

#: Posts times resamples of one interval at most: some seconds of sorting.
_RESAMPLED_POSTS = 32_000_000
#: Posts that a report looks at: more are sampled.
MOST_POSTS = 500_000
_POSTS = ["row_id", "post_id", "user_id", "split", "title", "posted_at", "category", "popularity"]


@dataclass
class Inputs:
    """One workspace's data as the sections of the report see it.

    Attributes:
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
    def frame(self) -> pd.DataFrame:
        """A row a post in the order of ingest: the posts' columns, the measures and `<family>_status`.

        Column `file` is the position of the post's file among those of the posts table.
        """
        share = min(1.0, MOST_POSTS / max(self.posts.rows, 1))

        def part(number: int) -> pa.Table:
            table = sampled(read_table(self.workspace, self.posts.fragments[number].path, _POSTS), share)
            return table.append_column("file", pa.array(np.full(len(table), number, np.int32)))

        frame = pa.concat_tables(in_turn(part, range(len(self.posts.fragments)))).to_pandas()
        row_ids = frame["row_id"].to_numpy()
        found = [read_columns(self.workspace, family, list(self.measures), row_ids) for family in self.store.values()]
        return pd.concat([frame, *(table.to_pandas() for table in found)], axis=1)

    def measured(self, frame: pd.DataFrame) -> list[str]:
        """The measures that some post of a frame has."""
        return [name for name in self.measures if frame[name].notna().any()]

    def speaking(self, known: Iterable[str]) -> list[str]:
        """Of some measures the first of each topic."""
        topics = pd.Series({name: self.measures[name].topic for name in known}, dtype=object)
        return topics[topics != ""].drop_duplicates().index.tolist()

    @cached_property
    def edges(self) -> tuple[float, ...]:
        """Inner edges of the popularity intervals of labelled posts."""
        return self.config.report.edges or rounded_quantiles(self.frame["popularity"])

    @property
    def labelled(self) -> bool:
        """Whether any post has a popularity."""
        return bool(self.frame["popularity"].notna().any())

    def holding(self, name: str) -> Manifest | None:
        """The artefact that has a file or a detail of this name."""
        for manifest in self.used.values():
            if manifest is not None and (
                name in manifest.details or any(one.path.endswith(f"/{name}") for one in manifest.fragments)
            ):
                return manifest
        return None

    @property
    def sweep(self) -> Manifest | None:
        """The sweep and its final model."""
        return self.holding("trials.parquet")

    @property
    def objective(self) -> str:
        """What models are tuned for and compared by: "mae" or "mape"."""
        return self.config.training.tune.objective

    @cached_property
    def predictions(self) -> pd.DataFrame | None:
        """The prediction of each post of `frame` with title and category, and its error; None where there are none.

        Column `error` is prediction minus popularity, of what was predicted out of fold alone.
        """
        manifest = self.holding("predictions")
        if manifest is None:
            return None
        files = [one for one in manifest.fragments if one.path == manifest.details["predictions"]]
        known = pa.array(self.frame["row_id"])
        pieces = iter_posts(self.workspace, replace(manifest, fragments=files), None, 100_000)
        found = pa.concat_tables(one.filter(pc.is_in(one["row_id"], value_set=known)) for one in pieces).to_pandas()
        error = (found["prediction"] - found["popularity"]).where(found["source"] == "out_of_fold")
        beside = self.frame[["row_id", "title", "category"]]
        return found.assign(error=error).merge(beside, on="row_id", how="left", validate="1:1")

    @cached_property
    def judged(self) -> pd.DataFrame | None:
        """The predictions that can be held against a label, made out of fold; None where there are none."""
        found = None if self.predictions is None else self.predictions.dropna(subset=["error"])
        return None if found is None or found.empty else found

    @cached_property
    def metrics(self) -> dict[str, Any] | None:
        """`metrics.json`, its parts that belong to the committed artefacts only; None where there is none."""
        found = self.workspace.read_json(METRICS_FILE)
        if found is None:
            return None
        committed = {name: manifest.fingerprint for name, manifest in self.used.items() if manifest is not None}
        current = {name for name, key in found.get("artefacts", {}).items() if committed.get(name) == key}
        variants = {name: values for name, values in found["variants"].items() if values["from"] in current}
        pairs = [pair for pair in found["differences"] if {pair["variant"], pair["reference"]} <= set(variants)]
        return {**found, "variants": variants, "differences": pairs} if variants else None


def sampled(posts: pa.Table, share: float) -> pa.Table:
    """The posts of a share of the users, the same ones in every run; a post without a user is one of its own."""
    if share >= 1:
        return posts
    users = pc.coalesce(posts["user_id"], pc.cast(posts["row_id"], pa.string()))
    return posts.filter(pa.array(pd.util.hash_array(users.to_numpy()) < share * 2**64))
