"""What trainings on Ray Train share: quick reports, where their runs are kept, and one line when one has failed."""

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import ray.train

from smp_ray.errors import SmpRayError
from smp_ray.store.workspace import Workspace

#: Folder of the runs, in that of the artefact.
RUNS = "train"


def run_config(workspace: Workspace, folder: str, name: str, max_failures: int) -> ray.train.RunConfig:
    """A run of this name, kept in a folder of the workspace; so many lost workers are survived."""
    # Every report waits for Ray Train to look at its workers: every 2 s, left to itself.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    # A lost node is survived in any case; to watch for its announcement costs another process.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    return ray.train.RunConfig(
        name=name,
        storage_path=workspace.path(folder, RUNS),
        storage_filesystem=workspace.filesystem,
        failure_config=ray.train.FailureConfig(max_failures=max_failures),
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
    )


@contextmanager
def failing(what: str) -> Iterator[None]:
    """Around a `fit()`: a SmpRayError of one line where the training, `what` in words, fails for good."""
    try:
        yield
    except ray.train.TrainingFailedError as error:
        failure = textwrap.shorten(str(error).strip().splitlines()[-1], 200)
        raise SmpRayError(f"{what} stopped: {failure}") from error
