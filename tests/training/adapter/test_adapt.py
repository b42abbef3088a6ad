"""The adapters through Ray Train: faults, numbers of workers, and what is stored (the training: test_loop)."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import ray
import torch

from smp_ray.errors import ConfigError, DataError
from smp_ray.models.adapter import AdapterBank
from smp_ray.ray_session import RaySession
from smp_ray.store.manifest import Manifest
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.fit import forget_what_ray_cannot_resume
from smp_ray.training.adapter.rows import ADAPTERS, HISTORY, PROGRESS
from smp_ray.training.ray_train import RUNS
from tests.training.adapter.adapt_world import World, make_world, trained

#: Of the artefacts, in the workspace.
FOLDER = "adapt"
#: Long enough to be killed in the middle: an epoch takes at least the 0.1 s between two looks of Ray Train.
LONG = {"max_epochs": 60, "patience": 60}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def manifest(world: World, session: RaySession) -> Manifest:
    return world.adapt(session)


def weights(workspace: Workspace, manifest: Manifest) -> dict[str, torch.Tensor]:
    path = workspace.path(manifest.stage, manifest.fingerprint, ADAPTERS)
    return dict(AdapterBank.from_bytes(Path(path).read_bytes()).state_dict())


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_ray_trains_exactly_what_one_process_does(world: World, manifest: Manifest) -> None:
    assert equal(weights(world.workspace, manifest), trained(world).result().state_dict())


def test_every_post_has_what_is_made_of_it_and_what_is_missing_is_null(world: World, manifest: Manifest) -> None:
    rows = world.adapted(manifest).to_pylist()
    assert len({row["row_id"] for row in rows}) == len(rows) == world.posts.rows == 480
    for row in rows:
        image, title = row["clip_image"] is not None, row["clip_title"] is not None
        assert (row["adapted_image"] is not None, row["adapted_title"] is not None) == (image, title)
        assert (row["adapted_similarity"] is not None) == (image and title)
        assert (row["adapted_prediction"] is not None) == (image or title)
        if image and title:
            sides = [np.array(row[f"adapted_{side}"], dtype=np.float64) for side in ("image", "title")]
            np.testing.assert_allclose([np.linalg.norm(side) for side in sides], 1, atol=2e-3)
            assert row["adapted_similarity"] == pytest.approx(sides[0] @ sides[1], abs=4e-3)
    assert any(row["adapted_prediction"] is None for row in rows)


def test_the_manifest_tells_what_happened(world: World, manifest: Manifest) -> None:
    assert (manifest.stage, manifest.rows) == (FOLDER, 432)
    details = manifest.details
    assert (details["embeddings"], details["workers"], details["starts"]) == (["clip_image", "clip_title"], 1, [0])
    folder = Path(world.workspace.path(manifest.stage, manifest.fingerprint))
    assert sorted(entry.name for entry in folder.iterdir()) == [ADAPTERS, HISTORY, "manifest.json", PROGRESS]
    history = pq.read_table(folder / HISTORY).to_pandas()
    assert [best["adapter"] for best in details["best"]] == [0, 1, 2]
    for best in details["best"]:
        own = history[history.adapter == best["adapter"]].set_index("epoch")
        assert own.heldout_loss.idxmin() == best["epoch"]
        assert own.heldout_mae[best["epoch"]] == best["heldout_mae"]
    assert details["epoch"] == history.epoch.max() == 6


def test_a_finished_artefact_is_kept_however_it_would_be_trained(
    world: World, manifest: Manifest, session: RaySession
) -> None:
    assert world.adapt(session, workers=3, max_failures=0).created_at == manifest.created_at
    runs = [world.run(**settings) for settings in ({}, {"residual_ratio": 0.1}, {"title_bottleneck": 3})]
    keys = {run.stage("adapt").key(run) for run in runs}
    assert len(keys) == 3
    assert manifest.fingerprint in keys


@pytest.mark.slow
def test_a_run_says_two_lines_and_nothing_of_rays(
    tmp_path: Path, session: RaySession, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two workers that stream, too: 1,260 rows of width 512 are more than 2 MiB."""
    wide = make_world(tmp_path, posts=1400, width=512, folds=2)
    capfd.readouterr()
    settings = {"workers": 2, "cpus_per_worker": 0.5, "max_epochs": 3, "learning_rate": 1e-3}
    found = wide.adapt(session, memory_mb=1, **settings)
    captured = capfd.readouterr()
    # What Ray's nodes print, a command hides (`ray_session`).
    assert [line for line in captured.out.splitlines() if "(raylet)" not in line] == []
    lines = captured.err.splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith("progress ")] == ["adapt", "adapt"], (
        captured.err
    )
    assert found.details["workers"] == 2
    # Not the same to the last bits, but as good as what one worker learns.
    alone = trained(wide, **settings)
    last = [row[4] for row in sorted(alone.history) if row[1] == alone.best_epoch[row[0]]]
    np.testing.assert_allclose([best["heldout_mae"] for best in found.details["best"]], last, rtol=0.05)


@pytest.mark.slow
def test_a_killed_worker_costs_an_epoch_and_changes_nothing(tmp_path: Path, session: RaySession) -> None:
    world = make_world(tmp_path)
    killed: list[int] = []
    watcher = threading.Thread(target=kill_worker, args=(world, killed), daemon=True)
    watcher.start()
    manifest = world.adapt(session, **LONG)
    watcher.join(timeout=1)
    assert len(killed) == 1
    starts = manifest.details["starts"]
    assert len(starts) == 2
    assert 0 < starts[1] < 60
    assert equal(weights(world.workspace, manifest), trained(world, **LONG).result().state_dict())


def kill_worker(world: World, killed: list[int]) -> None:
    """SIGKILL to the worker of the training of this process once it has done some epochs."""
    wait_for_epochs(world.workspace, 4)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "TrainWorker" in " ".join(process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)


def wait_for_epochs(workspace: Workspace, epochs: int, seconds: float = 120) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for info in workspace.files(FOLDER):
            if info.path.endswith(PROGRESS):
                done = int(workspace.read_json(workspace.relative(info.path))["epoch"])
                if done >= epochs:
                    return done
        time.sleep(0.02)
    raise TimeoutError(f"no training came to epoch {epochs}")


def recorded_epoch(workspace: Workspace) -> int:
    """The last epoch that Ray Train has recorded, a moment after the epoch; a kill may tear the record."""
    records = list(Path(workspace.path(FOLDER)).rglob("checkpoint_manager_snapshot.json"))
    try:
        last = json.loads(records[0].read_text())["latest_checkpoint_result"]
    except (IndexError, ValueError):
        return 0
    return int(torch.load(records[0].parent / last["checkpoint_dir_name"] / "state.pt", weights_only=True)["epoch"])


DRIVER = """
import sys
from pathlib import Path
from smp_ray.config import RayConfig
from smp_ray.ray_session import ray_session
from tests.training.adapter.adapt_world import make_world
from tests.training.adapter.test_adapt import LONG

with ray_session(RayConfig()) as session:
    make_world(Path(sys.argv[1])).adapt(session, **LONG)
"""


@pytest.mark.thorough
def test_killed_three_times_at_random_it_ends_with_all_adapters(tmp_path: Path, session: RaySession) -> None:
    workspace = Workspace.open(str(tmp_path))
    root = Path(__file__).parents[3]
    chance = random.Random()
    recorded = []
    for _ in range(3):
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], cwd=root, stderr=subprocess.PIPE)
        everything = [psutil.Process(driver.pid)]
        try:
            wait_for_epochs(workspace, wait_for_epochs(workspace, 0) + chance.randint(2, 12))
            time.sleep(chance.random() / 5)
            # All that it started as well: Ray's workers train on for some seconds, and would be at the end by then.
            everything = [*psutil.Process(driver.pid).children(recursive=True), psutil.Process(driver.pid)]
        finally:
            for process in reversed(everything):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            driver.communicate()
        assert not workspace.manifests(FOLDER)
        recorded.append(recorded_epoch(workspace))
    world = make_world(tmp_path)
    manifest = world.adapt(session, **LONG)
    starts = manifest.details["starts"]
    assert starts == [0, *recorded]
    assert 0 < max(recorded) < 60
    assert equal(weights(workspace, manifest), trained(world, **LONG).result().state_dict())


@pytest.mark.parametrize(
    ("record", "kept"),
    [('{"ray_version": "' + ray.__version__ + '"}', True), ('{"ray_version": "1.0"}', False), ('{"ray_ver', False)],
)
def test_a_record_that_ray_could_not_read_is_no_dead_end(tmp_path: Path, record: str, kept: bool) -> None:
    run = tmp_path / FOLDER / "key" / RUNS / "key"
    run.mkdir(parents=True)
    (run / "checkpoint_manager_snapshot.json").write_text(record)
    forget_what_ray_cannot_resume(Workspace.open(str(tmp_path)), f"{FOLDER}/key", "key")
    assert run.exists() == kept


def test_workers_that_do_not_fit_are_refused_before_ray_waits(tmp_path: Path, session: RaySession) -> None:
    world = make_world(tmp_path, posts=60)
    for settings in ({"workers": 1000}, {"cpus_per_worker": 1000.0}, {"use_gpu": True, "workers": 500}):
        with pytest.raises(ConfigError, match="do not fit"):
            world.adapt(session, **settings)


def test_posts_without_any_embedding_are_refused(tmp_path: Path, session: RaySession) -> None:
    with pytest.raises(
        DataError, match=r"would learn from 0 posts that have an image or a title; .* leave adapted out"
    ):
        make_world(tmp_path / "none", posts=60, missing=1.0).adapt(session)
    with pytest.raises(DataError, match="would learn from"):
        make_world(tmp_path / "few", posts=60, missing=0.98).adapt(session)
