"""A short pass over a few posts, for what each step takes on the machines at hand."""

import time
import uuid
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from smp_ray.features.forecast import Figures, figures_of
from smp_ray.features.one_pass import compute
from smp_ray.run import Run
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import write_table

#: Folder of the workspace in which a profile is made; it is removed at the end.
PROFILES = "profiles"


def profile(run: Run, posts: Manifest, count: int) -> Figures:
    """Compute all configured families of the first `count` posts, exactly as a pass does, and keep only the times.

    Ray runs, and the models are those of the config.

    Raises:
        FeaturePassError: the pass broke off.
    """
    run.session.start()
    short = Run(run.config, run.session, run.stages)
    short.workspace = replace(run.workspace, root=run.workspace.path(PROFILES, uuid.uuid4().hex[:8]))
    try:
        with pq.ParquetFile(run.workspace.path(posts.fragments[0].path), filesystem=run.workspace.filesystem) as file:
            first = pa.Table.from_batches([next(file.iter_batches(batch_size=count))])
        fragment = write_table(short.workspace, "posts.parquet", first)
        some = Manifest(posts.stage, "profile", {}, rows=first.num_rows, fragments=[fragment])
        found = compute(short, some, {}, list(run.families), time.monotonic())
        files = {file.path: file for manifest in found.values() for file in manifest.fragments}.values()
        stats = next(iter(found.values())).details["last_pass"]
        return figures_of(stats, sum(file.bytes for file in files) / first.num_rows)
    finally:
        run.workspace.delete_dir(run.workspace.relative(short.workspace.root))
