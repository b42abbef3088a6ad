"""Whether all nodes of a cluster see one folder as workspace."""

import os
import time
import uuid
from typing import Any

from smp_ray.errors import WorkspaceError, one_line
from smp_ray.progress import say
from smp_ray.store.workspace import Workspace, writing

#: Seconds that a node may need to see a file that another has just written, on a network file system.
VISIBLE_AFTER = 5.0
#: Seconds that a node is waited for.
ANSWER_WITHIN = 120.0


def check_shared(workspace: Workspace) -> None:
    """Refuse a folder as workspace where some live node does not find a file that the driver has just written there.

    Only the nodes of now are asked. Rows that one which comes later writes elsewhere are missed when they are counted
    after the pass.

    Raises:
        WorkspaceError: naming the nodes that do not share the folder.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2 or not workspace.is_local:
        return
    token = f".seen-by-all-nodes-{uuid.uuid4().hex}"
    workspace.make_dir()
    with writing(workspace.uri):
        workspace.write(b"", token)
    path = workspace.path(token)
    try:
        asked: dict[Any, str] = {}
        task: Any = ray.remote(num_cpus=0, max_retries=0)(_sees)
        for node in nodes:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[task.options(scheduling_strategy=here).remote(path)] = (
                f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
            )
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_WITHIN)
        blind, silent = [], [asked[answer] for answer in late]
        for answer in ready:
            try:
                if not ray.get(answer):
                    blind.append(asked[answer])
            except ray.exceptions.RayError as error:  # it has gone, or cannot run anything of smp_ray
                silent.append(f"{asked[answer]}: {one_line(error, 240)}")
    finally:
        os.remove(path)
    if blind:
        raise WorkspaceError(
            f"{workspace.root}: {len(blind)} of {len(nodes)} nodes do not share this folder: {', '.join(sorted(blind))}"
            "; set workspace to a folder that all nodes share, or to s3://bucket/prefix"
        )
    if silent:
        say(f"{workspace.root}: {len(silent)} of {len(nodes)} nodes did not say whether they share it: {silent[0]}")


def _sees(path: str) -> bool:
    until = time.monotonic() + VISIBLE_AFTER
    while not os.path.exists(path):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
