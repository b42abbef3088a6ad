"""Jobs that are submitted to a rehearsed cluster, and what they leave behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cluster.rehearse import Rehearsal
from smp_ray.config import load_config
from smp_ray.pipeline import export, open_run
from smp_ray.ray_session import RaySession
from smp_ray.store.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
#: The machine may be busy with other things.
LIMIT = 600.0


@dataclass
class Job:
    """A job, from the start on.

    Attributes:
        rehearsal: its cluster.
        entrypoint: its command line.
    """

    rehearsal: Rehearsal
    entrypoint: tuple[str, ...]

    def __post_init__(self) -> None:
        self.name = f"test-{time.monotonic_ns()}"
        call = ["ray", "job", "submit", "--submission-id", self.name, "--working-dir", ".", "--", *self.entrypoint]
        self._client = subprocess.Popen(
            call, env=self.rehearsal.env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def log(self) -> str:
        return self._ask("logs")

    def wait(self) -> str:
        """How it ended."""
        self._client.wait(timeout=LIMIT)
        status = self._ask("status")
        return next((word for word in ("SUCCEEDED", "FAILED") if word in status.upper()), status)

    def wait_for(self, process: str, workspace: Workspace, folder: str, ending: str) -> int:
        """Wait until a process of this name runs on a node, and such a file is there; the node's number."""
        began = time.monotonic()
        while True:
            if any(info.path.endswith(ending) for info in workspace.files(folder)):
                for number in range(1, self.rehearsal.nodes + 1):
                    if self.rehearsal.processes(process, number):
                        return number
            assert self._client.poll() is None, f"ended before there was {process}:\n{self.log}"
            assert time.monotonic() - began < LIMIT, f"no {process}:\n{self.log}"
            time.sleep(0.1)

    def _ask(self, what: str) -> str:
        call = ["ray", "job", what, self.name]
        return subprocess.run(call, env=self.rehearsal.env, capture_output=True, text=True, check=False).stdout


def run_locally(rehearsal: Rehearsal, config: Path, workspace: Path) -> None:
    """The same as a job that runs all stages, on this machine alone."""
    env = {name: value for name, value in rehearsal.env.items() if not name.startswith("RAY_")}
    call = [sys.executable, "-m", "smp_ray.cli", "run", str(config), "--workspace", str(workspace)]
    done = subprocess.run(call, env=env, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr


def assert_agree(config: Path, folder: Path, *workspaces: str) -> None:
    """Every post once, and the same of each in all workspaces; metrics as well."""
    frames, metrics = [], []
    for workspace in workspaces:
        loaded = load_config(config, workspace=workspace)
        out = folder / "compared.parquet"
        export(open_run(loaded, RaySession(loaded.ray)), str(out))
        # The pictures lie in each workspace, and what is said of missing ones differs; all else must agree.
        frames.append(pd.read_parquet(out).filter(regex="^(?!image_uri$|.*_error$)"))
        measured = Workspace.open(workspace).read_json("metrics.json")
        del measured["artefacts"]  # a pass of features has a name of its own, by which later ones tell theirs
        metrics.append(measured)
    for frame, found in zip(frames[1:], metrics[1:], strict=True):
        assert frame["post_id"].is_unique
        pd.testing.assert_frame_equal(frame, frames[0], rtol=1e-4, atol=1e-3)
        expected = flat(metrics[0])
        assert flat(found).keys() == expected.keys()
        # An embedding's last digit depends on which pictures its batch held, and LightGBM's splits on that digit.
        for place, value in flat(found).items():
            if place.endswith(("/pooled/src/value", "/pooled/mae/value")):
                assert value == pytest.approx(expected[place], abs=0.05), place
            elif isinstance(value, str):
                assert value == expected[place], place


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Values of JSON by their place."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if below is None:
        return {key: value if isinstance(value, int | float) else json.dumps(value)}
    return {place: one for name, entry in below for place, one in flat(entry, f"{key}/{name}").items()}
