"""What trained adapters make of posts' embeddings; nothing of it is stored, as it takes less time than to read it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from smp_ray.models.adapter import AdapterBank
from smp_ray.store.join import locate_sorted, vector_column
from smp_ray.store.manifest import Manifest
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.plan import MEAN_OF_FOLDS, assign, of_others
from smp_ray.training.adapter.rows import ADAPTED_COLUMNS, ADAPTERS, inputs
from smp_ray.training.splits import load_splits


@dataclass
class Adapters:
    """Trained adapters and who gets which: small, and pickled into tasks.

    Attributes:
        weights: the bank as a safetensors file.
        columns: of a post's image and title embeddings.
        row_ids, assigned: int64 and int16 (posts,): the adapter of each labelled post, which has not seen its label, in
            the order of the ids.
        others: the adapter of other posts, see `plan.of_others`.
    """

    weights: bytes
    columns: tuple[str, str]
    row_ids: np.ndarray
    assigned: np.ndarray
    others: int = MEAN_OF_FOLDS

    @classmethod
    def of(cls, workspace: Workspace, manifest: Manifest, divided: Manifest) -> Adapters:
        """Those of artefacts of the stages adapt and splits."""
        splits = load_splits(workspace, divided)
        order = np.argsort(splits.row_ids)
        assigned = assign(splits, int(manifest.config["seed"]))[order]
        weights = workspace.read(manifest.stage, manifest.fingerprint, ADAPTERS)
        image, title = manifest.details["embeddings"]
        return cls(weights, (image, title), splits.row_ids[order], assigned, of_others(splits.kind, splits.count))

    @cached_property
    def _bank(self) -> AdapterBank:
        return AdapterBank.from_bytes(self.weights).eval()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_bank"}

    def adapted(self, table: pa.Table) -> pa.Table:
        """`ADAPTED_COLUMNS` of posts with `row_id` and both embeddings, null where what they are made of is missing."""
        import torch

        given = inputs(table, self.columns)
        place = locate_sorted(table["row_id"].to_numpy(), self.row_ids)
        adapter = np.full(len(place), self.others)
        adapter[place >= 0] = self.assigned[place[place >= 0]]
        tensors = (torch.from_numpy(values).float() for values in given.values())
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # more add up in another order, and trees would split on the last digit
        try:
            image, title, prediction = self._bank.apply_to(torch.from_numpy(adapter), *tensors)
        finally:
            torch.set_num_threads(threads)
        has_image, has_title = given["has_image"], given["has_title"]
        columns = [
            vector_column(image.numpy().astype(np.float16), ~has_image),
            vector_column(title.numpy().astype(np.float16), ~has_title),
            pa.array((image * title).sum(dim=1).clamp(-1, 1).numpy(), mask=~(has_image & has_title)),
            pa.array(prediction.numpy(), mask=~(has_image | has_title)),
        ]
        return pa.table(columns, names=[column.name for column in ADAPTED_COLUMNS])

    def beside(self, table: pa.Table) -> pa.Table:
        """The table with `ADAPTED_COLUMNS`; as it is where it has no embeddings."""
        if not set(self.columns) <= set(table.column_names):
            return table
        adapted = self.adapted(table)
        for name in adapted.column_names:
            table = table.append_column(name, adapted[name])
        return table
