"""The Kubernetes manifests of `cluster/`, and what KubeRay 1.7 asks of them that no schema says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "cluster" / "kuberay").glob("*.yaml"))
#: Names that the operator makes of these must fit into 63 characters.
LONGEST = {"RayJob": 47, "RayCluster": 53}
SECRET = re.compile(r"(?i)secret|token|password|access_?key|credential")


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The spec of the cluster that a RayCluster is, or a RayJob starts; empty where it selects one."""
    spec = manifest["spec"]
    return dict(spec if manifest["kind"] == "RayCluster" else spec.get("rayClusterSpec", {}))


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])] if cluster else []


def containers(group: dict[str, Any]) -> list[dict[str, Any]]:
    return list(group["template"]["spec"]["containers"])


def broken_rules(manifest: dict[str, Any]) -> list[str]:
    """Which rules a manifest breaks, in words; the operator refuses such, or does silently what was not meant."""
    return [*_of_the_job(manifest), *_of_the_cluster(cluster_of(manifest))]


def _of_the_job(manifest: dict[str, Any]) -> Iterator[str]:
    name, spec = manifest["metadata"]["name"], manifest["spec"]
    if len(name) > LONGEST[manifest["kind"]] or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield "name"
    if spec.get("backoffLimit") and spec.get("clusterSelector"):
        yield "backoffLimit with clusterSelector"
    if "ttlSecondsAfterFinished" in spec and not spec.get("shutdownAfterJobFinishes"):
        yield "ttl without shutdownAfterJobFinishes"
    if SECRET.search(json.dumps([spec.get(key) for key in ("entrypoint", "metadata", "runtimeEnvYAML")])):
        yield "secret in the job's arguments"


def _of_the_cluster(cluster: dict[str, Any]) -> Iterator[str]:
    if not cluster:
        return
    version = tuple(int(part) for part in cluster.get("rayVersion", "0").split("."))
    if cluster.get("authOptions", {}).get("mode") != "token" or version < (2, 52):
        yield "token authentication"
    if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        yield "head without work"
    for group in groups(cluster):
        pod = group["template"]["spec"]
        if cluster.get("autoscalerOptions", {}).get("version") == "v2" and pod.get("restartPolicy") != "Never":
            yield "restartPolicy with autoscaler v2"
        if not group.get("minReplicas", 0) <= group.get("replicas", 0) <= group.get("maxReplicas", 0):
            yield "replicas"
        try:
            # As the operator takes it; what it cannot read, it drops together with num-gpus.
            json.loads(group["rayStartParams"].get("resources", "{}").strip("'\"` "))
        except ValueError:
            yield "resources in rayStartParams"
        yield from _of_the_pod(pod)


def _of_the_pod(pod: dict[str, Any]) -> Iterator[str]:
    if any(mount["mountPath"] == "/dev/shm" for one in pod["containers"] for mount in one.get("volumeMounts", [])):
        yield "/dev/shm"
    for one in pod["containers"]:
        limits, requests = (one.get("resources", {}).get(key, {}) for key in ("limits", "requests"))
        if not limits or limits != requests:
            yield "requests equal limits"
        if any(not re.fullmatch(r"[1-9]\d*", str(value)) for key, value in limits.items() if key.endswith("/gpu")):
            yield "whole GPUs"
        if any(SECRET.search(entry["name"]) and "value" in entry for entry in one.get("env", [])):
            yield "secret by value"
