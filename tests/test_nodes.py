"""A folder as workspace that not all nodes of a cluster see is refused before anything is computed."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.features.conftest import command, write_table

#: A head without work and a node beside it; prints the address and waits.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
cluster.add_node(num_cpus=4, object_store_memory=200 * 2**20)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
#: A node for which a folder is another one than for the rest of this machine.
APART = 'mount -t tmpfs none "$1" && exec ray start --address "$2" --num-cpus 4 --object-store-memory 200000000 --block'


def unshared(*arguments: str) -> list[str]:
    return ["unshare", "--user", "--map-root-user", "--mount", *arguments]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of those who use a cluster of three nodes, of which one has an own `tmp_path / "apart"`."""
    if subprocess.run(unshared("true"), capture_output=True, check=False).returncode:
        pytest.skip("needs unprivileged mount namespaces (unshare --user --mount)")
    (tmp_path / "apart").mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as running:
        assert running.stdout is not None
        assert running.stdin is not None
        address = running.stdout.readline().strip()
        apart = ["sh", "-c", APART, "sh", str(tmp_path / "apart"), address]
        with subprocess.Popen(unshared(*apart), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as node:
            yield {**env, "RAY_ADDRESS": address}
            node.terminate()
        running.stdin.close()


ASK = """
import sys, time
import ray
from smp_ray.nodes import check_shared
from smp_ray.store.workspace import Workspace

ray.init(log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < 3:
    time.sleep(0.2)
check_shared(Workspace.open(sys.argv[1]))
"""


def ask(env: dict[str, str], workspace: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", ASK, workspace], env=env, capture_output=True, text=True, check=False)


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_a_folder_that_not_all_nodes_share_is_refused(cluster: dict[str, str], tmp_path: Path) -> None:
    shared = ask(cluster, str(tmp_path / "shared"))
    assert shared.returncode == 0, shared.stderr
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["workspace.json"]
    apart = ask(cluster, str(tmp_path / "apart/run"))
    assert f"{tmp_path}/apart/run: 1 of 3 nodes do not share this folder: " in apart.stderr
    assert "s3://bucket/prefix" in apart.stderr
    table = write_table(tmp_path / "posts.csv", [{"id": f"p{i}", "title": f"a boat {i}"} for i in range(20)])
    config = tmp_path / "config.yaml"
    config.write_text(
        f"workspace: {tmp_path / 'apart/run'}\n"
        f"source: {{kind: table, path: {table}, columns: {{post_id: id, title: title}}}}\n"
        "features: {families: [perplexity]}\n"
    )
    refused = subprocess.run(command("features", str(config)), env=cluster, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "1 of 3 nodes do not share this folder" in refused.stderr.splitlines()[-1]
    assert not (tmp_path / "apart/run/ingest").exists()
