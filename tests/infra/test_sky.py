"""infra/sky.yaml, by SkyPilot itself where it can be fetched, and by what the project says of it."""

import os
import re
import shlex
import shutil
import string
import subprocess
from pathlib import Path
from typing import Any

import fixtures_run as job
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SKYPILOT = "skypilot==0.14.1"
_LOAD = "import sys, sky; task = sky.Task.from_yaml(sys.argv[1]); print(sorted(str(each) for each in task.resources))"


@pytest.fixture(scope="module")
def task() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "infra" / "sky.yaml").read_text())


def _last_command(script: str, envs: dict[str, str]) -> list[str]:
    """Return the words of a script's last line, with the task's variables filled in."""
    return shlex.split(string.Template(script.splitlines()[-1]).substitute(envs))


def test_it_starts_the_main_job_on_the_bucket(task: dict[str, Any]) -> None:
    envs = task["envs"] | {"BUCKET": "mine"}
    words = _last_command(task["run"], envs)
    place = words.index("jobs/pass.py")
    assert words[:place] == ["~/.local/bin/uv", "run", "--no-sync", "python"]
    options, recipe = job.parsed(words[place + 1 :])
    assert options.storage == "s3://mine/runs"
    assert recipe.recipe_name == task["envs"]["RECIPE"] and options.data == f"s3://mine/datasets/{recipe.recipe_name}"


def test_its_machine_gets_the_same_environment_as_the_image(task: dict[str, Any]) -> None:
    image = re.findall(r"uv sync (.*)", (ROOT / "infra" / "Dockerfile").read_text())[-1]
    assert _last_command(task["setup"], {})[1:] == ["sync", *shlex.split(image)]
    assert task["workdir"] == "."


def test_a_spot_machine_that_is_taken_away_is_replaced(task: dict[str, Any]) -> None:
    resources = task["resources"]
    assert resources["use_spot"] is True
    assert resources["job_recovery"]["strategy"] == "EAGER_NEXT_REGION"
    assert resources["job_recovery"]["max_restarts_on_errors"] > 0


def _load(file: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Let SkyPilot, in an environment of its own, read a task."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv")
    done = subprocess.run(
        [uv, "tool", "run", "--python=3.11", "--from", SKYPILOT, "python", "-c", _LOAD, str(file)],
        env={**os.environ, "HOME": str(home), "UV_CACHE_DIR": _cache(uv), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if re.search(r"Failed to fetch|error sending request|dns error|offline", done.stderr):
        pytest.skip(f"{SKYPILOT} can't be fetched here: {done.stderr.splitlines()[-1]}")
    return done


def _cache(uv: str) -> str:
    return subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.long
def test_skypilot_takes_it(task: dict[str, Any], tmp_path: Path) -> None:
    done = _load(ROOT / "infra" / "sky.yaml", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for gpu, num in task["resources"]["accelerators"].items():
        assert f"'{gpu}': {num}" in done.stdout
    assert done.stdout.count("[Spot]") == len(task["resources"]["accelerators"])
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text((ROOT / "infra" / "sky.yaml").read_text().replace("use_spot", "use_spots"))
    refused = _load(misspelt, tmp_path)
    assert refused.returncode != 0 and "use_spots" in refused.stderr + refused.stdout
