"""`cluster/skypilot.yaml`: SkyPilot's own schema where it is installed, and its commands as shell."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cluster.manifests import ROOT, SECRET

TASK = yaml.safe_load((ROOT / "cluster" / "skypilot.yaml").read_text(encoding="utf-8"))


def test_skypilot_takes_it() -> None:
    sky = pytest.importorskip(
        "sky", reason="SkyPilot, some hundred packages, is not a dependency: pip install skypilot"
    )
    task = copy.deepcopy(TASK) | {"secrets": dict.fromkeys(TASK["secrets"], "given on the command line")}
    made = sky.Task.from_yaml_config(task)
    assert made.num_nodes == TASK["num_nodes"]
    with pytest.raises(ValueError, match="num_node"):
        sky.Task.from_yaml_config(task | {"num_node": 2})


@pytest.mark.parametrize("part", ["setup", "run"])
def test_its_commands_are_shell(part: str, tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text(f"#!/bin/bash\n{TASK[part]}")
    check = [str(Path(sys.executable).parent / "shellcheck"), str(script)]
    assert subprocess.run(check, capture_output=True, text=True, check=False).stdout == ""
    script.write_text(f"#!/bin/bash\n{TASK[part]}\nif true; then")
    assert subprocess.run(check, capture_output=True, text=True, check=False).returncode == 1


def test_secrets_are_asked_for() -> None:
    assert set(TASK["secrets"].values()) == {None}
    assert [name for name in TASK.get("envs", {}) if SECRET.search(name)] == []
    assert "--dashboard-host=127.0.0.1" in TASK["run"]
    assert "RAY_AUTH_MODE=token" in TASK["run"]
