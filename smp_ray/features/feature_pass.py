"""One pass over the posts with Ray Data: read, prepare, decode, caption, embed, score, write Parquet.

Ray's own row checkpointing makes a pass resumable: the unit that survives a crash is the block that a write task has
committed. A data file is only ever read by others after the store's manifest names it.
"""

import math
import re
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data.checkpoint import CheckpointConfig
from ray.util.annotations import RayDeprecationWarning

from smp_ray.errors import FeaturePassError
from smp_ray.families.base import IMAGE
from smp_ray.families.registry import find
from smp_ray.features.actors import PassSpec, actor_class, prepare
from smp_ray.features.placement import IO_CPUS, Placement, Pool, Resources
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.workspace import Workspace

READ_COLUMNS = ["row_id", "post_id", "title", "image_uri", "image_bytes"]
#: A post that kills its worker (not one that raises) ends the pass after this many tries instead of looping.
MAX_RESTARTS = 2
#: Tasks whose results are written together as one file.
TASKS_PER_BLOCK = 4


@dataclass(frozen=True)
class PassFolder:
    """Where one pass writes: `data/` for Parquet files, `checkpoint/` for Ray's record of finished posts."""

    workspace: Workspace
    path: str

    @property
    def data(self) -> str:
        """Folder of the data files, relative to the workspace."""
        return f"{self.path}/data"

    @property
    def checkpoint(self) -> str:
        """Folder of Ray's checkpoint, relative to the workspace."""
        return f"{self.path}/checkpoint"

    def mend(self) -> int:
        """Make an interrupted pass safe to resume and return how many posts it has kept.

        On an object store a checkpoint is committed by copy, then delete. A kill between the two leaves the pending
        twin of a committed checkpoint, and Ray would delete the data files of both: the twin goes first.
        """
        kept, pending = 0, ".pending.parquet"
        infos = {info.path: info for info in self.workspace.files(self.checkpoint)}
        for path in infos:
            if not path.endswith(pending):
                kept += pq.read_metadata(path, filesystem=self.workspace.filesystem).num_rows
            elif path.removesuffix(pending) + ".parquet" in infos:
                self.workspace.filesystem.delete_file(path)
        return kept

    def fragments(self) -> list[Fragment]:
        """The data files that the pass has written."""
        found = []
        for info in self.workspace.files(self.data):
            if info.path.endswith(".parquet"):
                rows = pq.read_metadata(info.path, filesystem=self.workspace.filesystem).num_rows
                found.append(Fragment(self.workspace.relative(info.path), rows, info.size))
        return found


def rows_per_block(posts: int, configured: int | None, workers: int) -> int:
    """Posts a file, which is what a crash can cost: few enough to lose little, many enough that writing is cheap.

    At 20,000 posts a file of three families under ViT-L-14 has about 100 MB.
    """
    return configured or min(20_000, max(64, math.ceil(posts / (4 * max(1, workers)))))


def rows_per_task(block: int) -> int:
    """Posts an actor is given at once: a part of a file, so that no actor is left alone with a whole one at the end."""
    return math.ceil(block / TASKS_PER_BLOCK)


def cluster_resources(cores: int | None) -> Resources:
    """What the running Ray has."""
    total = ray.cluster_resources()
    return Resources(cpus=total.get("CPU", 0.0), gpus=total.get("GPU", 0.0), cores=cores)


def run_pass(spec: PassSpec, placement: Placement, posts: Manifest, folder: PassFolder, block: int) -> None:
    """Compute every post that the pass has not committed yet; returns when all are written.

    Raises:
        FeaturePassError: a worker failed for good; what was committed is kept and the next run goes on from it.
    """
    workspace = folder.workspace
    workspace.make_dir(folder.data)
    with DataContext.current(_data_context(folder)):
        task = rows_per_task(block)
        dataset = _read(workspace, posts, task)
        dataset = _compute(dataset, spec, placement, posts.rows, task)
        try:
            dataset.write_parquet(
                workspace.path(folder.data),
                filesystem=workspace.filesystem,
                min_rows_per_file=block,
                ray_remote_args={"num_cpus": IO_CPUS},
                compression="zstd",
            )
        except Exception as error:  # Ray wraps what a worker raised; the cause is shown, the trace kept for --debug
            raise FeaturePassError(f"the feature pass stopped: {explain(error)}") from error


def _read(workspace: Workspace, posts: Manifest, rows: int) -> Dataset:
    paths = [workspace.path(fragment.path) for fragment in posts.fragments]
    return ray.data.read_parquet(
        paths,
        filesystem=workspace.filesystem,
        columns=READ_COLUMNS,
        partitioning=None,
        override_num_blocks=max(len(paths), math.ceil(posts.rows / rows)),
        num_cpus=IO_CPUS,
    )


def _compute(dataset: Dataset, spec: PassSpec, placement: Placement, posts: int, rows: int) -> Dataset:
    inside = placement.decode_cpus is None and placement.kind == "colocated"
    if not inside:
        dataset = dataset.map_batches(
            partial(prepare, spec=spec),
            batch_format="pyarrow",
            batch_size=min(64, rows),
            num_cpus=placement.decode_cpus or IO_CPUS,
        )
    # More actors than tasks would load models for nothing.
    tasks = math.ceil(posts / rows)
    for pool in placement.pools:
        pool = replace(pool, min_actors=min(pool.min_actors, tasks), max_actors=min(pool.max_actors, tasks))
        # Nor may a batch reach over several tasks: a small run would end up in one actor.
        batch = min(batch_rows(spec, pool.families), rows)
        last = pool.families == placement.pools[-1].families
        dataset = _map_pool(dataset, spec, pool, batch, inside=inside, last=last)
    return dataset


def _map_pool(dataset: Dataset, spec: PassSpec, pool: Pool, batch: int, *, inside: bool, last: bool) -> Dataset:
    device = "cuda" if pool.num_gpus else "cpu"
    with warnings.catch_warnings():
        # Ray 2.60 has no other way to bound restarts, and says that this one will go in 2.64.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return dataset.map_batches(
            actor_class(pool.families),
            fn_constructor_args=(spec, pool.families, device, pool.threads, inside, last),
            batch_format="pyarrow",
            batch_size=batch,
            # Two tasks an actor: one computes, one waits. More would be stuck behind a busy actor at the end.
            compute=ActorPoolStrategy(
                min_size=pool.min_actors, max_size=pool.max_actors, max_tasks_in_flight_per_actor=2
            ),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus or None,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RESTARTS,
        )


def batch_rows(spec: PassSpec, families: tuple[str, ...]) -> int:
    """Posts handed to an actor at once: a few forward passes, so that equal texts and equal lengths meet."""
    return max(
        (1 if IMAGE in find(key.family).reads else 4) * key.pinned.batch_size
        for key in spec.families
        if key.family in families
    )


def _data_context(folder: PassFolder) -> DataContext:
    """Ray Data's settings for a pass, and for it alone: a checkpoint left set would give Ray Train no rows."""
    checkpoint = CheckpointConfig(
        id_column="row_id",
        checkpoint_path=folder.workspace.path(folder.checkpoint),
        override_filesystem=folder.workspace.filesystem,
        delete_checkpoint_on_success=False,
    )
    # The default of 1 GiB a filter keeps small machines waiting; it grows with the ids by itself.
    checkpoint.checkpoint_actor_memory_bytes = 128 * 2**20
    context = DataContext.get_current().copy()
    context.use_datasource_v2 = False  # the newer reader ignores override_num_blocks
    context.enable_progress_bars = False
    context.checkpoint_config = checkpoint
    return context


_OWN_ERROR = re.compile(r"smp_ray\.errors\.\w+: (.+)")


def explain(error: BaseException) -> str:
    """The cause of a failure in a worker, on one line: our own message where there is one, else the innermost."""
    texts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(texts) < 20:
        texts.append(str(current))
        own: Any = getattr(current, "cause", None)
        current = own if isinstance(own, BaseException) else current.__cause__
    for text in texts:
        found = _OWN_ERROR.findall(text)
        if found:
            return str(found[-1])
    lines = [line.strip() for line in texts[-1].splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__
