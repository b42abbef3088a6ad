"""`cluster/aws.yaml` and `cluster/gcp.yaml`: Ray's own schema, Amazon's, and what neither says."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from botocore.exceptions import ParamValidationError
from botocore.session import Session
from botocore.validate import validate_parameters

from tests.cluster.manifests import ROOT, SECRET

SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
CLUSTERS = {name: yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text()) for name in ("aws", "gcp")}


def broken_rules(cluster: dict[str, Any]) -> list[str]:
    """What of a cluster Ray's schema allows, and we do not."""
    broken, types = [], cluster["available_node_types"]
    starts = [" ".join(cluster[f"{who}_start_ray_commands"]) for who in ("head", "worker")]
    if "--dashboard-host=127.0.0.1" not in starts[0]:
        broken.append("dashboard on loopback")
    options = cluster["docker"]["run_options"]
    if "-e RAY_AUTH_MODE=token" not in options or "~/.ray/auth_token" not in cluster["file_mounts"]:
        broken.append("token authentication")
    if any(SECRET.search(option.partition("=")[0]) for option in options) or any(
        "export " in start for start in starts
    ):
        broken.append("secret by value")
    head = types[cluster["head_node_type"]]
    if head["resources"].get("CPU") != 0 or "--num-cpus=0" not in starts[0]:
        broken.append("head without work")
    if sum(one.get("max_workers", 0) for one in types.values()) > cluster["max_workers"]:
        broken.append("max_workers")
    if any(
        "GPU" in one["resources"] and not re.search("accelerator_type:", str(one["resources"]))
        for one in types.values()
    ):
        broken.append("kind of GPU")
    return broken


SPOILT: dict[str, Callable[[dict[str, Any]], object]] = {
    "dashboard on loopback": lambda made: made.update(
        head_start_ray_commands=["ray start --dashboard-host=0.0.0.0 --num-cpus=0"]
    ),
    "token authentication": lambda made: made.update(file_mounts={}),
    "secret by value": lambda made: made["docker"]["run_options"].append("-e AWS_SECRET_ACCESS_KEY=x"),
    "head without work": lambda made: made["available_node_types"]["head"].update(resources={"CPU": 4}),
    "max_workers": lambda made: made.update(max_workers=8),
    "kind of GPU": lambda made: made["available_node_types"]["gpu"].update(resources={"CPU": 4, "GPU": 1}),
}


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_rays_schema_takes_it(cluster: dict[str, Any]) -> None:
    jsonschema.validate(cluster, SCHEMA)
    for spoil in (
        lambda made: made.update(max_worker=8),
        lambda made: made["available_node_types"]["gpu"].update(spot=True),
        lambda made: made["available_node_types"]["gpu"]["resources"].update(GPU=0.5),
        lambda made: made.pop("provider"),
    ):
        made = copy.deepcopy(cluster)
        spoil(made)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(made, SCHEMA)


@pytest.mark.parametrize("rule", SPOILT)
@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_our_rules_hold_and_can_be_broken(cluster: dict[str, Any], rule: str) -> None:
    assert broken_rules(cluster) == []
    made = copy.deepcopy(cluster)
    SPOILT[rule](made)
    assert broken_rules(made) == [rule]


def test_amazon_takes_the_machines() -> None:
    shape = Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for node in CLUSTERS["aws"]["available_node_types"].values():
        request = {**node["node_config"], "MinCount": 1, "MaxCount": 1}
        validate_parameters(request, shape)
        spot = {"InstanceMarketOptions": {"MarketType": "spot"}}  # what is commented there
        validate_parameters(request | spot, shape)
        with pytest.raises(ParamValidationError, match="InstanceTyp"):
            validate_parameters(request | {"InstanceTyp": "g5.4xlarge"}, shape)


def test_the_commented_spot_machines_of_google_are_yaml() -> None:
    text = (ROOT / "cluster" / "gcp.yaml").read_text(encoding="utf-8")
    spot = yaml.safe_load(re.sub(r"\n( +)scheduling: .*\n.*\n +# scheduling:", r"\n\1scheduling:", text))
    node = spot["available_node_types"]["gpu"]["node_config"]
    assert node["scheduling"] == {"onHostMaintenance": "TERMINATE", "provisioningModel": "SPOT"}
