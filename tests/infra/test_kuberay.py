"""infra/kuberay.yaml, by the code of Ray's autoscaler that reads it on Kubernetes, and by Kubernetes' own schemas."""

import re
import shlex
from pathlib import Path
from typing import Any

import fixtures_run as job
import kubernetes_validate
import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    documents = yaml.safe_load_all((ROOT / "infra" / "kuberay.yaml").read_text())
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def cluster(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return manifests["RayCluster"]["spec"]


@pytest.fixture(scope="module")
def groups(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the pods' groups by name, the head's under `head`."""
    return {"head": cluster["headGroupSpec"]} | {each["groupName"]: each for each in cluster["workerGroupSpecs"]}


def _pod(group: dict[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]


def test_the_autoscaler_sees_a_cluster_that_grows_from_zero(manifests: dict[str, dict[str, Any]]) -> None:
    manifest = manifests["RayCluster"] | {"metadata": {"name": "luss-ray", "namespace": "default"}}
    types = _derive_autoscaling_config_from_ray_cr(manifest)["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["gpu-spot"]["resources"]["GPU"] == 1
    assert "GPU" not in types["cpu-spot"]["resources"]
    for name in ("gpu-spot", "cpu-spot"):
        assert types[name]["min_workers"] == 0 < types[name]["max_workers"]


def test_autoscaler_v2_with_token_authentication(cluster: dict[str, Any]) -> None:
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["rayVersion"] == ray.__version__


def test_all_pods_run_one_image_under_one_role(
    manifests: dict[str, dict[str, Any]], groups: dict[str, dict[str, Any]]
) -> None:
    assert {container["image"] for group in groups.values() for container in _pod(group)["containers"]} == {"IMAGE"}
    role = manifests["ServiceAccount"]["metadata"]["name"]
    assert {_pod(group)["serviceAccountName"] for group in groups.values()} == {role}


def test_workers_live_on_spot_nodes_and_the_head_does_not(groups: dict[str, dict[str, Any]]) -> None:
    capacity = {name: _pod(group)["nodeSelector"]["eks.amazonaws.com/capacityType"] for name, group in groups.items()}
    assert capacity == {"head": "ON_DEMAND", "gpu-spot": "SPOT", "cpu-spot": "SPOT"}
    assert "tolerations" not in _pod(groups["head"])
    for name in ("gpu-spot", "cpu-spot"):
        assert "spot" in [toleration["key"] for toleration in _pod(groups[name])["tolerations"]]
        assert _pod(groups[name])["restartPolicy"] == "Never", "autoscaler v2 replaces pods, it does not restart them"


def test_a_reclaimed_gpu_node_drains_before_it_is_killed(groups: dict[str, dict[str, Any]]) -> None:
    pod = _pod(groups["gpu-spot"])
    variables = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    drain_s = float(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert 30 < drain_s < pod["terminationGracePeriodSeconds"] < 120


def test_limits_hold_what_is_requested(groups: dict[str, dict[str, Any]]) -> None:
    for group in groups.values():
        resources = _pod(group)["containers"][0]["resources"]
        assert resources["limits"]["memory"] == resources["requests"]["memory"]
    gpu = _pod(groups["gpu-spot"])["containers"][0]["resources"]
    assert gpu["limits"]["nvidia.com/gpu"] == gpu["requests"]["nvidia.com/gpu"] == 1


def test_the_job_finds_the_cluster_and_its_command_line_is_one(
    manifests: dict[str, dict[str, Any]], groups: dict[str, dict[str, Any]]
) -> None:
    spec = manifests["RayJob"]["spec"]
    assert spec["clusterSelector"] == {"ray.io/cluster": manifests["RayCluster"]["metadata"]["name"]}
    words = shlex.split(spec["entrypoint"])
    assert words[:5] == ["cd", "/app", "&&", "python", "infra/on_gpus.py"]
    wanted, command = job.load_program("infra/on_gpus.py").parse(words[5:])
    (gpu_group,) = [
        each for each in manifests["RayCluster"]["spec"]["workerGroupSpecs"] if each["groupName"] == "gpu-spot"
    ]
    assert wanted["GPU"] == gpu_group["maxReplicas"]
    assert command[:2] == ["python", "jobs/pass.py"]
    options, recipe = job.parsed(command[2:])
    assert recipe.recipe_name == "imagenet-s-50"
    assert options.data.startswith("s3://") and options.storage.startswith("s3://")


def test_commands_in_the_readme_are_understood() -> None:
    text = (ROOT / "infra" / "README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"python jobs/pass\.py ([^\n`]+)", text)
    assert commands
    for command in commands:
        job.parsed(shlex.split(command))


def test_pods_and_account_fit_the_schemas_of_kubernetes(
    manifests: dict[str, dict[str, Any]], groups: dict[str, dict[str, Any]]
) -> None:
    latest = kubernetes_validate.latest_version()
    kubernetes_validate.validate(manifests["ServiceAccount"], latest, strict=True)
    for name, group in groups.items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": _pod(group)}
        kubernetes_validate.validate(pod, latest, strict=True)
