"""One pass over the posts with Ray Data: read, prepare, decode, caption, embed, score, write Parquet.

Ray's own row checkpointing makes a pass resumable: the unit that survives a crash is the block that a write task has
committed. A data file is only ever read by others after the store's manifest names it.
"""

import math
import re
import warnings
from functools import partial

import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data.checkpoint import CheckpointConfig
from ray.util.annotations import RayDeprecationWarning

from smp_ray.errors import FeaturePassError
from smp_ray.families.base import IMAGE
from smp_ray.families.registry import find
from smp_ray.features.actors import PassSpec, actor_class, prepare
from smp_ray.features.placement import IO_CPUS, Placement
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.workspace import Workspace

READ_COLUMNS = ["row_id", "post_id", "title", "image_uri", "image_bytes"]
#: A post that kills its worker (not one that raises) ends the pass after this many tries instead of looping.
MAX_RESTARTS = 2
#: In the folder of a pass: its Parquet files, and Ray's record of finished posts.
DATA, CHECKPOINT = "data", "checkpoint"


def mend(workspace: Workspace, folder: str) -> int:
    """Make an interrupted pass safe to resume and return how many posts it has kept.

    On an object store a checkpoint is committed by copy, then delete. A kill between the two leaves the pending twin of
    a committed checkpoint, and Ray would delete the data files of both: the twin goes first.
    """
    kept, pending = 0, ".pending.parquet"
    paths = [info.path for info in workspace.files(folder, CHECKPOINT)]
    for path in paths:
        if not path.endswith(pending):
            kept += pq.read_metadata(path, filesystem=workspace.filesystem).num_rows
        elif path.removesuffix(pending) + ".parquet" in paths:
            workspace.filesystem.delete_file(path)
    return kept


def written(workspace: Workspace, folder: str) -> list[Fragment]:
    """The data files of a pass."""
    found = []
    for info in workspace.files(folder, DATA):
        if info.path.endswith(".parquet"):
            rows = pq.read_metadata(info.path, filesystem=workspace.filesystem).num_rows
            found.append(Fragment(workspace.relative(info.path), rows, info.size))
    return found


def run_pass(
    spec: PassSpec, placement: Placement, posts: Manifest, workspace: Workspace, folder: str, block: int | None
) -> None:
    """Compute every post that the pass has not committed yet; returns when all are written.

    `block` is how many posts a file has, which is what a crash can cost. None: few enough to lose little, many enough
    that writing is cheap; at 20,000 posts a file of three families under ViT-L-14 has about 100 MB.

    Raises:
        FeaturePassError: a worker failed for good; what was committed is kept and the next run goes on from it.
    """
    workers = max(pool.max_actors for pool in placement.pools)
    block = block or min(20_000, max(64, math.ceil(posts.rows / (4 * workers))))
    task = math.ceil(block / 4)  # posts an actor is given: no actor is left alone with a whole file at the end
    with DataContext.current(_data_context(workspace, folder)):
        paths = [workspace.path(fragment.path) for fragment in posts.fragments]
        dataset = ray.data.read_parquet(
            paths,
            filesystem=workspace.filesystem,
            columns=READ_COLUMNS,
            partitioning=None,
            override_num_blocks=max(len(paths), math.ceil(posts.rows / task)),
            num_cpus=IO_CPUS,
        )
        dataset = _compute(dataset, spec, placement, posts.rows, task)
        try:
            dataset.write_parquet(
                workspace.make_dir(folder, DATA),
                filesystem=workspace.filesystem,
                min_rows_per_file=block,
                ray_remote_args={"num_cpus": IO_CPUS},
                compression="zstd",
            )
        except Exception as error:  # Ray wraps what a worker raised; the cause is shown, the trace kept for --debug
            raise FeaturePassError(f"the feature pass stopped: {explain(error)}") from error


def _compute(dataset: Dataset, spec: PassSpec, placement: Placement, posts: int, rows: int) -> Dataset:
    inside = placement.decode_cpus is None and placement.kind == "colocated"
    if not inside:
        dataset = dataset.map_batches(
            partial(prepare, spec=spec),
            batch_format="pyarrow",
            batch_size=min(64, rows),
            num_cpus=placement.decode_cpus or IO_CPUS,
        )
    tasks = math.ceil(posts / rows)  # more actors than these would load models for nothing
    for pool in placement.pools:
        arguments = (spec, pool.families, pool.threads, bool(pool.num_gpus), inside, pool == placement.pools[-1])
        # A few forward passes a batch, so that equal texts and equal lengths meet, but never more than a task: a small
        # run would end up in one actor.
        keys = [key for key in spec.families if key.family in pool.families]
        batch = max((1 if IMAGE in find(key.family).reads else 4) * key.pinned.batch_size for key in keys)
        # Two tasks an actor: one computes, one waits. More would be stuck behind a busy actor at the end.
        actors = ActorPoolStrategy(
            min_size=min(pool.min_actors, tasks), max_size=min(pool.max_actors, tasks), max_tasks_in_flight_per_actor=2
        )
        with warnings.catch_warnings():
            # Ray 2.60 has no other way to bound restarts, and says that this one will go in 2.64.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset = dataset.map_batches(
                actor_class(pool.families),
                fn_constructor_args=arguments,
                batch_format="pyarrow",
                batch_size=min(batch, rows),
                compute=actors,
                num_cpus=pool.num_cpus,
                num_gpus=pool.num_gpus or None,
                max_restarts=MAX_RESTARTS,
                max_task_retries=MAX_RESTARTS,
            )
    return dataset


def _data_context(workspace: Workspace, folder: str) -> DataContext:
    """Ray Data's settings for a pass, and for it alone: a checkpoint left set would give Ray Train no rows."""
    checkpoint = CheckpointConfig(
        id_column="row_id",
        checkpoint_path=workspace.path(folder, CHECKPOINT),
        override_filesystem=workspace.filesystem,
        delete_checkpoint_on_success=False,
    )
    # The default of 1 GiB a filter keeps small machines waiting; it grows with the ids by itself.
    checkpoint.checkpoint_actor_memory_bytes = 128 * 2**20
    context = DataContext.get_current().copy()
    context.use_datasource_v2 = False  # the newer reader ignores override_num_blocks
    context.enable_progress_bars = False
    context.checkpoint_config = checkpoint
    return context


def explain(error: BaseException) -> str:
    """The cause of a failure in a worker, on one line: our own message where there is one, else the innermost."""
    texts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(texts) < 20:
        texts.append(str(current))
        current = getattr(current, "cause", None) or current.__cause__
    for text in texts:
        if found := re.findall(r"smp_ray\.errors\.\w+: (.+)", text):
            return str(found[-1])
    lines = [line.strip() for line in texts[-1].splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__
