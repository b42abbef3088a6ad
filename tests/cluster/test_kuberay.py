"""`cluster/kuberay/`: Kubernetes' schemas, KubeRay's and the operator's rules; each fails on a spoilt copy."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from smp_ray import __version__
from tests.cluster.manifests import FILES, ROOT, broken_rules, cluster_of, containers, documents, groups

CRDS = ROOT.parent / "shared" / "kuberay"
MANIFESTS = [pytest.param(document, id=path.name) for path in FILES for document in documents(path)]
#: An older one that many clusters run, and the newest.
KUBERNETES = ("1.31.0", kubernetes_validate.latest_version())


def strict(schema: Any) -> Any:
    """The schema, with what it does not name refused at every depth, as `kubectl apply` does."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "properties" in made and made.get("type") == "object" and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


@cache
def validator(kind: str) -> Draft202012Validator:
    path = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip(f"KubeRay's custom resource definitions ({path}) are not here")
    versions = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = [version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"]
    return Draft202012Validator(strict(schema))


def pod_errors(group: dict[str, Any], version: str) -> str:
    """What Kubernetes' own schema says against the pods of a group; empty where it says nothing."""
    template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": group["template"]}
    try:
        kubernetes_validate.validate(template, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return ""


def changed(manifest: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    made = copy.deepcopy(manifest)
    change(made)
    return made


def test_there_is_a_job_and_a_cluster_and_they_agree() -> None:
    job, cluster = (
        {m["kind"]: m for path in FILES for m in documents(path)}[kind] for kind in ("RayJob", "RayCluster")
    )
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_kuberay_takes_it(manifest: dict[str, Any]) -> None:
    check = validator(manifest["kind"])
    assert [error.message for error in check.iter_errors(manifest)] == []
    for spoil in (
        lambda made: made["spec"].update(shutdownAfterJobFinish=True),
        lambda made: cluster_of(made)["autoscalerOptions"].update(version="v3"),
        lambda made: containers(groups(cluster_of(made))[1])[0].update(imag="smp-ray"),
        lambda made: groups(cluster_of(made))[1].update(maxReplicas="8"),
    ):
        assert list(check.iter_errors(changed(manifest, spoil))) != []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("manifest", MANIFESTS)
def test_kubernetes_takes_its_pods(manifest: dict[str, Any], version: str) -> None:
    assert [pod_errors(group, version) for group in groups(cluster_of(manifest))] == ["", "", ""]
    spoilt = changed(manifest, lambda made: containers(groups(cluster_of(made))[0])[0].update(evnFrom=[]))
    assert "evnFrom" in pod_errors(groups(cluster_of(spoilt))[0], version)


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_the_operators_rules_hold(manifest: dict[str, Any]) -> None:
    assert broken_rules(manifest) == []


def gpu(manifest: dict[str, Any]) -> dict[str, Any]:
    """The group with GPUs."""
    (found,) = [group for group in groups(cluster_of(manifest)) if group.get("groupName") == "gpu"]
    return found


def resources(manifest: dict[str, Any]) -> dict[str, Any]:
    return dict(containers(gpu(manifest))[0]["resources"])


def shm(manifest: dict[str, Any]) -> None:
    containers(gpu(manifest))[0]["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]


SPOILT: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "too long": ("name", lambda made: made["metadata"].update(name="a" * (48 if made["kind"] == "RayJob" else 54))),
    "capitals": ("name", lambda made: made["metadata"].update(name="Smp-Ray")),
    "selector": (
        "backoffLimit with clusterSelector",
        lambda made: made["spec"].update(backoffLimit=1, clusterSelector={"ray.io/cluster": "smp-ray"}),
    ),
    "ttl": (
        "ttl without shutdownAfterJobFinishes",
        lambda made: made["spec"].update(ttlSecondsAfterFinished=9, shutdownAfterJobFinishes=False),
    ),
    "argument": (
        "secret in the job's arguments",
        lambda made: made["spec"].update(entrypoint="python jobs/run.py --set ray.env.AWS_SECRET_ACCESS_KEY=x"),
    ),
    "open": ("token authentication", lambda made: cluster_of(made)["authOptions"].update(mode="disabled")),
    "old": (
        "token authentication",
        lambda made: (made["spec"].get("rayClusterSpec") or made["spec"]).pop("rayVersion"),
    ),
    "busy head": ("head without work", lambda made: groups(cluster_of(made))[0]["rayStartParams"].pop("num-cpus")),
    "restarts": (
        "restartPolicy with autoscaler v2",
        lambda made: gpu(made)["template"]["spec"].update(restartPolicy="Always"),
    ),
    "too few": ("replicas", lambda made: gpu(made).update(minReplicas=9)),
    "backslashes": (
        "resources in rayStartParams",
        lambda made: gpu(made)["rayStartParams"].update(resources='"{\\"accelerator_type:A100\\": 1}"'),
    ),
    "shm": ("/dev/shm", shm),
    "bursting": (
        "requests equal limits",
        lambda made: (
            resources(made).update(requests={"cpu": "1"}) or containers(gpu(made))[0]["resources"].pop("limits")
        ),
    ),
    "half a GPU": ("whole GPUs", lambda made: resources(made)["limits"].update({"nvidia.com/gpu": "500m"})),
    "by value": (
        "secret by value",
        lambda made: containers(gpu(made))[0].update(env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]),
    ),
}


@pytest.mark.parametrize("case", SPOILT)
@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_spoilt_copy_breaks_its_rule(manifest: dict[str, Any], case: str) -> None:
    rule, spoil = SPOILT[case]
    assert rule in broken_rules(changed(manifest, spoil))


def test_names_of_the_greatest_length_are_allowed() -> None:
    for path in FILES:
        for manifest in documents(path):
            longest = "a" * {"RayJob": 47, "RayCluster": 53}[manifest["kind"]]
            assert broken_rules(changed(manifest, lambda made, name=longest: made["metadata"].update(name=name))) == []


def test_versions_are_those_of_this_project() -> None:
    (ray,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert {cluster_of(manifest)["rayVersion"] for path in FILES for manifest in documents(path)} == {ray}
    pattern = re.compile(r"smp-ray:(\S+?)-(?:cpu|cuda)\b")
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "cluster").rglob("*") if path.is_file()}
    found = {path.name: set(pattern.findall(text)) for path, text in texts.items() if "smp-ray:" in text}
    assert set(found) >= {"Dockerfile", "aws.yaml", "gcp.yaml", "rayjob.yaml", "raycluster.yaml"}
    assert {version for versions in found.values() for version in versions} == {__version__}
