"""`cluster/slurm.sh`: shell, what it hands to Slurm (a stand-in for `srun`), and for real on one node."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from smp_ray.config import load_config
from smp_ray.pipeline import open_run
from smp_ray.stage import status
from tests.cluster.manifests import ROOT

SCRIPT = ROOT / "cluster" / "slurm.sh"
BIN = Path(sys.executable).parent
#: What Slurm tells a script of two nodes.
SLURM = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "4"}
#: Writes down what it is given, and does on this node what `ray symmetric-run` does on the head.
SRUN = """#!/bin/bash
printf '%s\\n' "$@" > srun.args
env > srun.env
[ -n "$RAY_FAILS_TO_START" ] && exit 0
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""
PYTHON = f"""#!/bin/bash
[ "$1" = -c ] && exec {sys.executable} "$@"
printf '%s\\n' "$RAY_ADDRESS" "$@" > python.args
exit "$RUN_ENDS_WITH"
"""


def checked(path: Path) -> list[int]:
    """Exit statuses of bash's own check and of shellcheck."""
    calls = (["bash", "-n", str(path)], [str(BIN / "shellcheck"), str(path)])
    return [subprocess.run(call, capture_output=True, check=False).returncode for call in calls]


def test_it_is_shell(tmp_path: Path) -> None:
    assert checked(SCRIPT) == [0, 0]
    spoilt = tmp_path / "slurm.sh"
    spoilt.write_text(SCRIPT.read_text(encoding="utf-8").replace('"$SLURM_JOB_NUM_NODES"', "$NODES"))
    assert checked(spoilt) == [0, 1]
    spoilt.write_text(SCRIPT.read_text(encoding="utf-8").replace("}\n", "\n"))
    assert checked(spoilt) == [2, 1]


def run_script(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The script in a folder whose .venv has stand-ins for `srun` and `python`."""
    for name, text in (("srun", SRUN), ("python", PYTHON)):
        path = folder / ".venv" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    known = {"PATH": os.environ["PATH"], "SLURM_SUBMIT_DIR": str(folder), "RUN_ENDS_WITH": "0", **SLURM, **env}
    return subprocess.run(["bash", str(SCRIPT), *arguments], env=known, capture_output=True, text=True, check=False)


def test_what_is_handed_to_slurm(tmp_path: Path) -> None:
    done = run_script(tmp_path, "my config.yaml", "--set", "features.families=[caption, clip]")
    assert done.returncode == 0, done.stderr
    given = (tmp_path / "srun.args").read_text().splitlines()
    own = given[: given.index("--")]
    address = own[own.index("--address") + 1]
    assert re.fullmatch(r"[0-9.]+:24711", address)
    assert own[:3] == ["--kill-on-bad-exit=1", "ray", "symmetric-run"]
    assert own[own.index("--min-nodes") + 1] == "2"
    assert {"--num-cpus=4", "--dashboard-host=127.0.0.1"} <= set(own)
    assert (tmp_path / "python.args").read_text().splitlines() == [
        address, "jobs/run.py", "run", "--config", "my config.yaml", "--set", "features.families=[caption, clip]",
    ]  # fmt: skip
    env = dict(line.split("=", 1) for line in (tmp_path / "srun.env").read_text().splitlines() if "=" in line)
    assert (env["RAY_AUTH_MODE"], env["SRUN_CPUS_PER_TASK"]) == ("token", "4")
    assert re.fullmatch("[0-9a-f]{64}", env["RAY_AUTH_TOKEN"])
    assert env["RAY_AUTH_TOKEN"] not in "\n".join(given) + done.stdout + done.stderr


def test_its_end_is_that_of_the_run(tmp_path: Path) -> None:
    assert run_script(tmp_path, "my.yaml", RUN_ENDS_WITH="3").returncode == 3
    # `ray symmetric-run` ends with 0 where `ray start` failed.
    failed = run_script(tmp_path, "my.yaml", RAY_FAILS_TO_START="1")
    assert (failed.returncode, failed.stderr) == (1, "the run did not end well, see above\n")
    assert "usage: sbatch cluster/slurm.sh CONFIG" in run_script(tmp_path).stderr


#: Ray's end stops every Ray of the user that it sees: processes, ports and session folder are of this run alone.
ALONE = ["unshare", "--map-root-user", "--pid", "--net", "--mount", "--mount-proc", "--fork", "bash", "-c"]
PREPARE = "ip link set lo up && mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray"


@pytest.mark.thorough
def test_for_real_on_one_node(tmp_path: Path) -> None:
    if subprocess.run([*ALONE, PREPARE], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces here (unshare, ip): a run of its own Ray could stop others")
    shim = tmp_path / "bin" / "srun"
    shim.parent.mkdir()
    shim.write_text('#!/bin/bash\nshift\nexec "$@"\n')
    shim.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= SLURM | {"SLURM_JOB_NUM_NODES": "1", "SLURM_SUBMIT_DIR": str(ROOT), "HF_HUB_OFFLINE": "1"}
    env["PATH"] = f"{shim.parent}:{BIN}:{os.environ['PATH']}"
    workspace = str(tmp_path / "workspace")
    changes = ["source.posts=60", "features.families=[visual]", "training.tune.trials=2", "training.tune.models=1"]
    settings = [word for change in changes for word in ("--set", change)]
    call = [*ALONE, f"{PREPARE} && exec bash {SCRIPT} configs/demo.yaml --workspace {workspace} {shlex.join(settings)}"]
    done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    config = load_config(ROOT / "configs" / "demo.yaml", changes, workspace)
    assert {line.state for line in status(open_run(config))} == {"committed"}
