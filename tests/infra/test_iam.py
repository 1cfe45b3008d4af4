"""The rights that infra/iam-*.json give: what a run needs, and no more."""

import json
from pathlib import Path

import pytest

INFRA = Path(__file__).parents[2] / "infra"


def statements(name: str) -> list[dict]:
    policy = json.loads((INFRA / name).read_text())
    assert policy["Version"] == "2012-10-17"
    return policy["Statement"]


def actions(name: str) -> dict[str, dict]:
    return {
        action: each
        for each in statements(name)
        for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
    }


def test_workers_write_runs_read_data_and_touch_nothing_else() -> None:
    resources = {each["Sid"]: each["Resource"] for each in statements("iam-worker.json")}
    assert resources == {
        "FindObjects": "arn:aws:s3:::BUCKET",
        "ReadData": "arn:aws:s3:::BUCKET/datasets/*",
        "KeepRuns": "arn:aws:s3:::BUCKET/runs/*",
    }
    assert {action.split(":")[0] for action in actions("iam-worker.json")} == {"s3"}


@pytest.mark.parametrize("action", ["ec2:TerminateInstances", "ec2:RunInstances", "iam:PassRole"])
def test_what_the_head_may_change_is_bounded_by_a_condition(action: str) -> None:
    assert actions("iam-head.json")[action]["Condition"]["StringEquals"]


@pytest.mark.parametrize("name", ["iam-worker.json", "iam-head.json"])
def test_no_policy_allows_everything(name: str) -> None:
    for action, each in actions(name).items():
        assert not action.startswith("*") and not action.endswith(":*") and each["Effect"] == "Allow"
        if each["Resource"] == "*" and "Condition" not in each:
            assert action.startswith(("ec2:Describe", "ssm:Get", "iam:Get"))
