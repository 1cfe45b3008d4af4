"""The hooks run what the test command runs."""

import shlex
from pathlib import Path

from pre_commit.clientlib import load_config

ROOT = Path(__file__).parents[2]


def _hooks() -> list[dict]:
    config = load_config(ROOT / ".pre-commit-config.yaml")
    assert [repository["repo"] for repository in config["repos"]] == ["local"], "hooks must work without a network"
    return config["repos"][0]["hooks"]


def test_every_linter_of_the_test_command_is_a_hook() -> None:
    lines = (ROOT / "tests" / "run").read_text().splitlines()
    linters = [shlex.split(line) for line in lines if line.startswith("uv run") and "pytest" not in line]
    assert len(linters) == 4
    hooks = [shlex.split(hook["entry"]) for hook in _hooks()]
    for linter in linters:
        words = [word for word in linter if word != "."]
        assert any(hook[: len(words)] == words for hook in hooks), words


def test_whole_project_linters_get_no_file_names() -> None:
    for hook in _hooks():
        if "ruff" not in hook["entry"]:
            assert hook["pass_filenames"] is False, hook["id"]
