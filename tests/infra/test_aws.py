"""infra/aws.yaml, by what `ray up` itself checks before it talks to Amazon."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "infra" / "aws.yaml").read_text())


@pytest.fixture(scope="module")
def config(written: dict[str, Any]) -> dict[str, Any]:
    config = prepare_config(written)
    validate_config(config)
    return config


def test_nothing_but_the_head_runs_at_rest(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert config["head_node_type"] == "head"
    workers = {name: each for name, each in types.items() if name != "head"}
    assert all(each["min_workers"] == 0 < each["max_workers"] for each in workers.values())
    assert sum(each["max_workers"] for each in workers.values()) <= config["max_workers"]


def test_the_head_is_never_reclaimed_and_the_workers_are_cheap(config: dict[str, Any]) -> None:
    markets = {
        name: each["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        for name, each in config["available_node_types"].items()
    }
    assert markets == {"head": None, "gpu-spot": "spot", "cpu-spot": "spot"}
    assert not config["provider"]["cache_stopped_nodes"]


def test_work_is_placed_on_workers(config: dict[str, Any]) -> None:
    resources = {name: each["resources"] for name, each in config["available_node_types"].items()}
    assert resources["head"] == {"CPU": 0}
    assert resources["gpu-spot"]["GPU"] >= 1
    assert "GPU" not in resources["cpu-spot"]


def test_every_node_reaches_s3_by_a_role_and_no_key_is_written_down(written: dict[str, Any]) -> None:
    for node_type in written["available_node_types"].values():
        assert node_type["node_config"]["IamInstanceProfile"]["Name"]
    text = (ROOT / "infra" / "aws.yaml").read_text()
    assert "AWS_SECRET_ACCESS_KEY" not in text
    for commands in (written["head_start_ray_commands"], written["worker_start_ray_commands"]):
        assert f"AWS_DEFAULT_REGION={written['provider']['region']} " in commands[-1].replace(";", " ")
        assert "RAY_AUTH_MODE=token" in commands[-1]


def test_the_dashboard_is_not_open_to_the_world(written: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in shlex.split(written["head_start_ray_commands"][-1])


def test_nodes_get_the_locked_environment(written: dict[str, Any]) -> None:
    (sync,) = [command for command in written["setup_commands"] if "uv sync" in command]
    assert {"--frozen", "--extra", "faiss-gpu"} <= set(shlex.split(sync))
    sources = [Path(source) for source in written["file_mounts"].values()]
    assert all((ROOT / source).is_file() for source in sources if not str(source).startswith("~"))
