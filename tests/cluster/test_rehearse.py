"""Rehearsals of a cluster: what a job makes, when it fails, and what it survives (`cluster/rehearse.py`)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.rehearse import Node, Rehearsal
from smp_ray.store.workspace import Workspace
from tests.cluster.jobs import ROOT, Job, assert_agree, run_locally

CONFIG = Path("tests/cluster/rehearsed.yaml")
#: The process that works in a stage, and where the end of which name tells that it has done some of it.
FEATURES = ("ray::MapWorker(MapBatches(ClipPerplexity", "features/passes", ".parquet")
ADAPT = ("ray::RayTrainWorker", "adapt", "state.pt")
TUNE = ("ray::FoldTrial", "tune", ".json")


@pytest.fixture(scope="module")
def rehearsal() -> Iterator[Rehearsal]:
    """A head without work and three nodes of different sizes."""
    with Rehearsal([Node(4), Node(3), Node(2)]) as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.bucket.env.items():
            patch.setenv(name, value)
        yield cluster


@pytest.fixture(scope="module")
def local(rehearsal: Rehearsal, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Workspace of the local run that all jobs must agree with."""
    folder = tmp_path_factory.mktemp("local")
    run_locally(rehearsal, CONFIG, folder)
    return str(folder)


def job(
    rehearsal: Rehearsal, workspace: str, *options: str, config: Path = CONFIG, before: tuple[str, ...] = ()
) -> Job:
    run = ("python", "jobs/run.py", "run", "--config", str(config), "--workspace", workspace)
    return Job(rehearsal, (*before, *run, *options))


def starts(workspace: Workspace) -> list[int]:
    """Epochs from which the adapters' training set out: 0, and later ones where it went on."""
    (adapted,) = workspace.manifests("adapt")
    found: list[int] = adapted.details["starts"]
    assert found == sorted(set(found))
    return found


@pytest.mark.parametrize(
    "what",
    [
        *(pytest.param(what, marks=pytest.mark.slow) for what in ("config", "credentials")),
        *(pytest.param(what, marks=pytest.mark.thorough) for what in ("dataset", "bucket", "endpoint")),
    ],
)
def test_what_cannot_work_ends_soon_with_one_line(rehearsal: Rehearsal, what: str) -> None:
    workspace, config, before, options = rehearsal.bucket.address(what), CONFIG, (), ()
    if what == "config":
        options, line = ("--set", "features.clip.batch_size=none"), "--set: features.clip.batch_size: found 'none'"
    elif what == "dataset":
        path = rehearsal.bucket.address("no/posts.csv")
        columns = "{post_id: id, title: title, image: image}"
        sets = ("source=null", "source.kind=table", f"source.path={path}", f"source.columns={columns}")
        options = tuple(word for one in sets for word in ("--set", one))
        line = f"{path}: no such file or folder"
    elif what == "bucket":
        workspace = rehearsal.bucket.address("run", bucket="nowhere")
        line = f"{workspace}: cannot be written: Bucket 'nowhere' not found"
    elif what == "endpoint":
        workspace = "s3://bucket/run?endpoint_override=127.0.0.1:9&scheme=http"
        line = f"{workspace}: cannot be read: "
    else:
        before = ("env", "-u", "AWS_ACCESS_KEY_ID", "-u", "AWS_SECRET_ACCESS_KEY")
        line = f"{workspace}: cannot be read: "
    began = time.monotonic()
    submitted = job(rehearsal, workspace, *options, config=config, before=before)
    assert submitted.wait() == "FAILED"
    assert time.monotonic() - began < 60
    assert submitted.log.strip().splitlines()[-1].startswith(f"Error: {line}"), submitted.log
    assert "Traceback" not in submitted.log


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_agrees_with_a_local_run_though_nodes_are_killed_in_three_stages(
    rehearsal: Rehearsal, local: str, tmp_path: Path
) -> None:
    address = rehearsal.bucket.address("nodes")
    submitted, workspace = job(rehearsal, address), Workspace.open(address)
    for process, *file in (FEATURES, ADAPT, TUNE):
        rehearsal.kill(submitted.wait_for(process, workspace, *file))
        rehearsal.add(Node(3))
    assert submitted.wait() == "SUCCEEDED", submitted.log
    assert_agree(CONFIG, tmp_path, local, address)
    assert len(starts(workspace)) == 2
    # No node has so many CPUs, though all together have.
    sets = ("training.tune.cpus_per_trial=5", "training.baselines=[lightgbm_default]")
    refused = job(rehearsal, address, *(word for one in sets for word in ("--set", one)))
    assert refused.wait() == "FAILED"
    line = r"Error: a task takes 5 CPUs, but the largest node has [34]; lower training.tune.cpus_per_trial"
    assert re.fullmatch(line, refused.log.strip().splitlines()[-1])


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_killed_driver_goes_on_when_submitted_again_though_s3_fails_every_fifth_time(
    rehearsal: Rehearsal, local: str, tmp_path: Path
) -> None:
    address, bucket = rehearsal.bucket.address("driver"), rehearsal.bucket
    workspace, before, bucket.errors = Workspace.open(address), bucket.requests, 0.2
    try:
        first = job(rehearsal, address)
        first.wait_for(*ADAPT[:1], workspace, *ADAPT[1:])
        for process in rehearsal.processes("jobs/run.py", 0):
            process.kill()
        assert first.wait() == "FAILED"
        second = job(rehearsal, address)
        assert second.wait() == "SUCCEEDED", second.log
    finally:
        bucket.errors = 0.0
    assert bucket.failed > 0.15 * (bucket.requests - before)
    assert "features: up to date" in second.log
    assert_agree(CONFIG, tmp_path, local, address)
    (adapted,) = workspace.manifests("adapt")
    assert len(adapted.details["starts"]) == 2  # perhaps from the beginning, where the first checkpoint got lost


@pytest.mark.slow
def test_the_command_runs_another_in_its_environment_and_leaves_nothing() -> None:
    ask = "import json, ray; ray.init(); print(json.dumps([node['Resources'] for node in ray.nodes()]), '{WORKSPACE}')"
    call = [sys.executable, "cluster/rehearse.py", "--node", "cpus=2,gpus=1", "--", sys.executable, "-c", ask]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    resources, _, workspace = done.stdout.splitlines()[-1].rpartition(" ")
    found = sorted((node.get("CPU", 0), node.get("GPU", 0)) for node in json.loads(resources))
    assert found == [(0, 0), (2, 1)]
    assert workspace.startswith("s3://rehearsal/run?")
