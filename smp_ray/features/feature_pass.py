"""One pass over the posts with Ray Data: read, choose, fetch, decode, caption, embed, score, write Parquet.

A pass writes into a folder of its own, `features/passes/<pass>/`. What survives a crash is every file that a write task
has finished: a Parquet file is readable only when it is whole.
"""

import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from smp_ray.errors import FeaturePassError, LostNodesError, UnreachableError
from smp_ray.families.registry import looking
from smp_ray.features.actors import PassSpec, actor_class, choose, decode
from smp_ray.features.decode import FetchStep
from smp_ray.features.pace import at_most
from smp_ray.features.pools import IO_CPUS, Placement
from smp_ray.schema import UNREACHABLE
from smp_ray.store.manifest import Fragment
from smp_ray.store.parquet import in_turn, read_table
from smp_ray.store.reader import PASS_NOTE, new_pass
from smp_ray.store.workspace import Workspace, asked_again

#: What is read of the posts, and besides where a family looks at pictures.
READ_COLUMNS, PICTURES = ["row_id", "post_id", "title"], ["image_uri", "image_bytes"]
#: In the folder of a pass: its Parquet files.
DATA = "data"
#: Bytes of a block between two operators: small, so that posts whose pictures are there do not wait for the others.
BLOCK_BYTES = 8 * 2**20
#: Blocks that the posts are read in at most.
READ_BLOCKS = 4096
#: Posts an actor is given at a time at least: with fewer, a forward pass takes longer for each.
LEAST_TASK = 8
#: What Ray prints between an error in a task and the one that it wraps it in; and what Ray Data adds to each message.
WRAPPED, ADDED = "\n\nThe above exception was the direct cause", r"(?:^|\n)Failed to .+ after \d+/\d+ attempts"
#: Ray's error where a lost task's second run gives another number of blocks: pictures come as they are there.
REPLAYED = "StreamingGeneratorReplayInconsistentError"
#: Blocks whose pictures one actor fetches at once.
FETCHED_BLOCKS = 32


def begin_pass(workspace: Workspace, families: Mapping[str, str]) -> str:
    """A new folder for a pass that computes families of these fingerprints."""
    folder = new_pass()
    workspace.make_dir(folder, DATA)
    workspace.write_json({"families": dict(families)}, folder, PASS_NOTE)
    return folder


def written(workspace: Workspace, folder: str, but: Container[str] = ()) -> list[Fragment]:
    """The whole data files of a pass, finished or not, `but` those of these paths; their footers are read by threads.

    A file without its footer is still being written, or torn.
    """

    def whole(info: pafs.FileInfo) -> Fragment | None:
        try:
            rows = asked_again(lambda: pq.read_metadata(info.path, filesystem=workspace.filesystem)).num_rows
        except pa.ArrowInvalid:  # no footer yet
            return None
        return Fragment(workspace.relative(info.path), rows, info.size)

    files = [info for info in workspace.files(folder, DATA) if info.path.endswith(".parquet")]
    new = [info for info in files if workspace.relative(info.path) not in but]
    return [fragment for fragment in in_turn(whole, new) if fragment is not None]


def forget_unreachable(workspace: Workspace, folder: str, families: Iterable[str]) -> None:
    """Take out of the files of a pass what they say of posts whose picture could not be had for now."""
    names = [f"{family}_status" for family in families]

    def says_so(fragment: Fragment) -> Fragment | None:
        statuses = read_table(workspace, fragment.path, names)
        return fragment if any(pc.any(pc.equal(one, UNREACHABLE)).as_py() for one in statuses.columns) else None

    for fragment in filter(None, in_turn(says_so, written(workspace, folder))):
        table = pq.read_table(workspace.path(fragment.path), filesystem=workspace.filesystem, partitioning=None)
        for name in names:
            lost = pc.fill_null(pc.equal(table[name], UNREACHABLE), False)
            table = table.set_column(table.column_names.index(name), name, pc.if_else(lost, None, table[name]))
        whole = pa.BufferOutputStream()
        pq.write_table(table, whole, compression="zstd")
        workspace.write(whole.getvalue().to_pybytes(), fragment.path)  # a manifest may name the file already


def run_pass(
    spec: PassSpec,
    placement: Placement,
    posts: Sequence[Fragment],
    workspace: Workspace,
    folder: str,
    block: int | None,
    todo: int,
) -> None:
    """Compute every post of some files that needs it, `todo` of them; returns when all are written.

    `block` is how many posts a file has, which is what a crash can cost. None: few enough to lose little, many enough
    that writing is cheap; at 20,000 posts a file of three families under ViT-L-14 has about 100 MB.

    Raises:
        FeaturePassError: a worker failed for good; what was written is kept and the next run goes on from it.
        UnreachableError: the pictures cannot be had for now.
    """
    workers = max(pool.actors for pool in placement.pools)
    block = block or min(20_000, max(64, math.ceil(todo / (4 * workers))))
    # Posts an actor is given: none is left alone for long at the end.
    task = min(math.ceil(block / 4), max(LEAST_TASK, math.ceil(todo / (16 * workers))))
    # Where few of many posts are left, not a block for each: a block costs some 10 ms.
    total = sum(fragment.rows for fragment in posts)
    rows = max(1, task // 4 if placement.fetchers else task, total // READ_BLOCKS)
    with DataContext.current(_data_context()):
        paths = [workspace.path(fragment.path) for fragment in posts]
        dataset = ray.data.read_parquet(
            paths,
            filesystem=workspace.filesystem,
            columns=[*READ_COLUMNS, *(PICTURES if looking(key.family for key in spec.families) else [])],
            partitioning=None,
            include_paths=True,
            override_num_blocks=max(len(paths), math.ceil(total / rows)),
            num_cpus=IO_CPUS,
            concurrency=placement.readers,
        )
        dataset = _compute(dataset, spec, placement, todo, task)
        try:
            dataset.write_parquet(
                workspace.path(folder, DATA),
                filesystem=workspace.filesystem,
                min_rows_per_file=block,
                ray_remote_args={"num_cpus": IO_CPUS},
                compression="zstd",
            )
        except Exception as error:  # Ray wraps what a worker raised; the cause is shown, the trace kept for --debug
            kind, line = explain(error)
            raise kind(f"the feature pass stopped: {line}") from error


def _compute(dataset: Dataset, spec: PassSpec, placement: Placement, posts: int, rows: int) -> Dataset:
    dataset = dataset.map_batches(
        partial(choose, spec=spec),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=IO_CPUS,
        zero_copy_batch=True,
        concurrency=placement.readers,
    )
    if placement.fetchers:
        dataset = dataset.map_batches(
            FetchStep,
            fn_constructor_args=(spec.images, looking(key.family for key in spec.families)),
            batch_format="pyarrow",
            batch_size=None,
            compute=ActorPoolStrategy(
                min_size=1,
                max_size=placement.fetchers,
                max_tasks_in_flight_per_actor=FETCHED_BLOCKS,
                max_concurrent_calls_per_actor=FETCHED_BLOCKS,
                enable_true_multi_threading=True,
            ),
            num_cpus=IO_CPUS,
        )
    inside = placement.decode_cpus is None
    if not inside:
        dataset = dataset.map_batches(
            partial(decode, spec=spec),
            batch_format="pyarrow",
            batch_size=min(64, rows),
            num_cpus=placement.decode_cpus,
        )
    tasks = math.ceil(posts / rows)  # more actors than these would load models for nothing
    for pool in placement.pools:
        arguments = (spec, pool.families, pool.threads, inside, pool == placement.pools[-1])
        # A few forward passes a batch, so that equal texts and equal lengths meet, but never more than a task: a small
        # run would end up in one actor.
        keys = [key for key in spec.families if key.family in pool.families]
        device = "cuda" if pool.threads is None else "cpu"
        # Not where pixels are handed on: four times as many would wait at every actor.
        passes = 1 if looking(pool.families) and not inside else 4
        batch = max((1 if looking([key.family]) else passes) * at_most(key.pinned.batch_size, device) for key in keys)
        dataset = dataset.map_batches(
            actor_class(pool.families),
            fn_constructor_args=arguments,
            batch_format="pyarrow",
            batch_size=min(batch, rows),
            # Two tasks an actor: one computes, one waits. More would be stuck behind a busy actor at the end.
            compute=ActorPoolStrategy(
                # None of them is taken down because it has nothing to do now: it would load its models again later.
                min_size=min(pool.initial, tasks), max_size=min(pool.actors, tasks), max_tasks_in_flight_per_actor=2,
            ),
            **pool.need.options,
        )  # fmt: skip
    return dataset


def _data_context() -> DataContext:
    """Ray Data's settings for a pass, and for it alone."""
    context = DataContext.get_current().copy()
    context.use_datasource_v2 = False  # the newer reader ignores override_num_blocks
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    context.memory_usage_poll_interval_s = None  # it reads the process's whole memory map each time, 3 % of a core
    return context


def explain(error: BaseException) -> tuple[type[FeaturePassError], str]:
    """The cause of a failure in a worker, on one line: our own message where there is one, else the innermost."""
    texts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(texts) < 20:
        texts.append(str(current))
        if REPLAYED in f"{type(current).__name__} {current}":
            return LostNodesError, "a worker that fetched pictures was lost; what is finished is kept"
        if isinstance(current, BaseExceptionGroup):
            current = current.exceptions[0]
        else:
            current = getattr(current, "cause", None) or current.__cause__
    for text in texts:
        if found := re.findall(r"smp_ray\.errors\.(\w+): (.+)", text):
            name, line = found[-1]
            return UnreachableError if name == UnreachableError.__name__ else FeaturePassError, line
    # A cause does not travel with its exception; it is in what Ray printed of it.
    printed = next((text for text in texts if WRAPPED in text), texts[-1]).split(WRAPPED)[0]
    lines = [line.strip() for line in re.split(ADDED, printed)[0].splitlines() if line.strip()]
    return FeaturePassError, lines[-1][:500] if lines else type(error).__name__
