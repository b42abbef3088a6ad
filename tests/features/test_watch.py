"""Logical CPUs and GPUs: every planned actor is placed, lost nodes change the plan, missing ones are waited for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cluster.rehearse import Node, Rehearsal
from jobs.bench.packages import install
from smp_ray.families import registry

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 420
#: Nodes with so many GPUs in all.
GPUS = {
    1: [Node(4, 1)],
    2: [Node(4, 1)] * 2,
    3: [Node(4, 1)] * 3,
    8: [Node(2), *[Node(5, 2)] * 4],
    16: [Node(10, 4)] * 4,
}


def command(name: str, folder: Path, *settings: str) -> list[str]:
    sets = [part for setting in (
        "features.device=cpu", "source.posts=96", "features.rows_per_block=16", *settings
    ) for part in ("--set", setting)]  # fmt: skip
    call = [sys.executable, "-m", "smp_ray.cli", name, "configs/demo.yaml", "--workspace", str(folder / "run"), *sets]
    return [*call, "--out", str(folder / "out.parquet")] if name == "export" else call


def last_pass(folder: Path, family: str) -> dict[str, Any]:
    (manifest,) = (folder / "run" / "features" / family).glob("*/manifest.json")
    return dict(json.loads(manifest.read_text())["details"]["last_pass"])


def exported(folder: Path, env: dict[str, str], *settings: str) -> pd.DataFrame:
    subprocess.run(command("export", folder, *settings), env=env, cwd=ROOT, check=True, capture_output=True)
    return pd.read_parquet(folder / "out.parquet")


#: A family without a model to load: on one machine there may be many of them.
LIGHT = '''"""A number of each title."""

import pyarrow as pa
from pydantic import Field

from smp_ray.families.base import TITLE, Column, Family, FamilySettings


class Settings(FamilySettings):
    """GPUs by placement."""

    num_gpus: float | None = Field(GPUS, ge=0, le=64)


class Light(Family):
    """How long a title is."""

    name = "NAME"
    Settings = Settings
    reads = (TITLE,)
    columns = (Column("NAME_letters", pa.int32()),)
    cost = COST

    def __init__(self, settings, device, threads):
        pass

    def compute(self, titles):
        return {"NAME_letters": [len(title) for title in titles]}
'''
#: Name of a family, seconds a post takes it, and its `num_gpus`: as captions, embeddings, perplexity and `visual`.
LIGHTS = {"slow": (2.3, None), "quick": (0.13, None), "fair": (0.1, None), "free": (0.01, 0)}


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("gpus", GPUS)
def test_every_planned_actor_works(gpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (cost, own) in LIGHTS.items():
        code = LIGHT.replace("NAME", name).replace("COST", str(cost)).replace("GPUS", str(own))
        install(tmp_path / "site", code, registry.GROUP, name, f"{name}_family:Light")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(ROOT)]))
    settings = ["features.placement=spread", f"features.families=[{', '.join(LIGHTS)}]"]
    with Rehearsal(GPUS[gpus]) as cluster:
        done = subprocess.run(
            command("features", tmp_path, *settings), env=cluster.env, cwd=ROOT, capture_output=True, text=True,
            timeout=LIMIT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        planned = done.stderr.split("placement spread: ")[1].splitlines()[0]
        pools = re.findall(r": (\d+) actors?[^(]*\(([^)]*) each\)", planned)
        actors = [int(count) for count, _ in pools]
        shares = [float(share) for _, need in pools for share in re.findall(r"([\d.]+) GPU", need) or ["0"]]
        assert np.dot(actors, shares) == pytest.approx(gpus, rel=0.01), planned
        assert last_pass(tmp_path, "slow")["ready"] == sum(actors)
        table = exported(tmp_path, cluster.env, *settings)
    assert len(table) == table["post_id"].nunique() == 96
    assert (table["slow_letters"] == table["title"].str.len()).all()


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_a_lost_node_that_the_plan_needs_makes_another_plan(tmp_path: Path) -> None:
    # More than either model finishes before the watch has lost its patience: one that ends leaves its GPU to the other.
    posts, patience = 800, 5
    settings = ["features.families=[clip, perplexity]", f"source.posts={posts}"]
    impatient = f"from smp_ray import cli; from smp_ray.features import watch; watch.PATIENCE = {patience}; cli.main()"
    with Rehearsal([Node(4, 1), Node(4, 1)]) as cluster:
        with (tmp_path / "log").open("wb") as log:
            python, _, _, *arguments = command("features", tmp_path, *settings)
            call = [python, "-c", impatient, *arguments]
            running = subprocess.Popen(call, env=cluster.env, cwd=ROOT, stdout=log, stderr=log)
        passes, began = tmp_path / "run" / "features" / "passes", time.monotonic()
        while len(list(passes.rglob("*.parquet"))) < 3:
            assert running.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() - began < LIMIT, (tmp_path / "log").read_text()
            time.sleep(0.2)
        cluster.kill(2)
        assert running.wait(timeout=LIMIT) == 0, (tmp_path / "log").read_text()
        table = exported(tmp_path, cluster.env, *settings)
    said = (tmp_path / "log").read_text()
    assert "placement spread" in said
    assert "planned anew" in said
    assert "placement colocated" in said.split("planned anew")[1]
    assert "posts kept from before" in said
    assert len(table) == table["post_id"].nunique() == posts


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_a_cluster_without_workers_grows_runs_and_shrinks(tmp_path: Path) -> None:
    groups = "[{nodes: 2, cpus: 4, gpus: 1}, {nodes: 1, cpus: 2}]"
    settings = ["features.families=[clip, perplexity]", f"ray.cluster={groups}", "ray.wait_s=300"]
    with Rehearsal([], grows=[Node(4, 1, most=2), Node(2, most=1)]) as cluster:
        done = subprocess.run(
            command("features", tmp_path, *settings), env=cluster.env, cwd=ROOT, capture_output=True, text=True,
            timeout=LIMIT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "waiting for nodes" in done.stderr
        assert "for clip; 1 × (" in done.stderr
        began = time.monotonic()
        while len(cluster.processes("raylet/raylet")) > 1:  # the head's
            assert time.monotonic() - began < 180, "the nodes stay"
            time.sleep(1)
        table = exported(tmp_path, cluster.env, *settings)
    assert last_pass(tmp_path, "clip")["ready"] == 2
    assert len(table) == table["post_id"].nunique() == 96
