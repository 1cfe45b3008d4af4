"""Runs of the main job as a user starts it, with numbers so small that one takes about a minute."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from luss_ray.config.command_line import parse
from luss_ray.config.recipe import Recipe
from luss_ray.demo.build import build
from luss_ray.demo.variants import DEMO
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location

ROOT = Path(__file__).parents[1]
TINY = [
    "--num-workers=2 2",
    "--shorter-side-px=48",
    "--backbone.widths=8 8 16 16",
    "--prototypes.num=16",
    "--prototypes.hidden=16",
    "--prototypes.embedding-dim=8",
    "--pretrain.crops.global-px=24",
    "--pretrain.optimisation.epochs=2",
    "--pretrain.optimisation.batch-size=32",
    "--attention.crops.global-px=24",
    "--attention.optimisation.epochs=1",
    "--attention.optimisation.batch-size=32",
    "--clustering.crop-px=48",
    "--clustering.num-restarts=2",
    "--clustering.num-iterations=4",
    "--finetune.crop-px=32",
    "--finetune.optimisation.epochs=1",
    "--finetune.optimisation.batch-size=32",
    "--prediction.guided-radius=1",
]


def arguments(*options: str) -> list[str]:
    """Return the words of options written as `--name=value value`."""
    return [word for option in options for word in option.replace("=", " ", 1).split(" ")]


def command(*options: str) -> list[str]:
    """Return the command that starts the main job on tiny settings."""
    return [sys.executable, str(ROOT / "jobs" / "pass.py"), "demo", *arguments(*TINY, *options)]


def run_job(folder: Path, *options: str, environment: dict[str, str] | None = None, timeout_s: float = 400) -> str:
    """Run the main job to its end and return what it printed; its log lies in `folder`."""
    done = subprocess.run(
        command(*options, f"--log={folder / 'ray.log'}"),
        env=job_environment(environment),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{_tail(folder / 'ray.log')}"
    return done.stdout


def program(
    name: str, folder: Path, *words: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run another job to its end; its log lies in `folder`."""
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / name), *words, "--log", str(folder / "ray.log")],
        env=job_environment(environment),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def audit(run: Path) -> subprocess.CompletedProcess[str]:
    """Audit a run."""
    return subprocess.run(
        audit_command(str(run)), env=job_environment(), capture_output=True, text=True, timeout=120, check=False
    )


def audit_command(run: str) -> list[str]:
    """Return the command that audits a run."""
    return [sys.executable, str(ROOT / "jobs" / "audit.py"), run]


def run_program(name: str, folder: Path, *words: str, environment: dict[str, str] | None = None) -> str:
    """Run another job, which must succeed; return what it printed."""
    done = program(name, folder, *words, environment=environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{_tail(folder / 'ray.log')}"
    return done.stdout


def load_program(path: str) -> ModuleType:
    """Return one of the project's programs as a module."""
    spec = importlib.util.spec_from_file_location(f"program_{Path(path).stem}", ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(words: list[str]) -> tuple[Any, Recipe]:
    """Return options and recipe of a command line of the main job."""
    return parse(load_program("jobs/pass.py").Options, words, program="pass.py", about="")


def job_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a job that starts a Ray of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    return inherited | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | (extra or {})


def result_of(run: Path) -> dict:
    """Return a run's result.json."""
    return json.loads((run / "result.json").read_text())


def _tail(log: Path) -> str:
    return "\n".join(log.read_text().splitlines()[-40:]) if log.exists() else "no log"


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in ImageNet-S layout: 120 training scenes and 40 for validation, of four categories."""
    return make_scenes(tmp_path_factory.mktemp("scenes"))


UNREADABLE_ROW = 7
"""Row of the training split that is damaged after packing."""


@pytest.fixture(scope="session")
def shards(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the scenes packed into shards of 30 images; one training image doesn't decode any more."""
    return make_shards(scenes, tmp_path_factory.mktemp("shards") / "scenes")


def make_scenes(folder: Path) -> Path:
    """Make the scenes of the fixture `scenes`."""
    variant = replace(DEMO, categories=("chair", "sofa", "car", "lamp"), side_px=48)
    return build(folder, variant=variant, num_train=120, num_validation=40)


def make_shards(scenes: Path, out: Path) -> Path:
    """Make the shards of the fixture `shards`."""
    pack_scenes(scenes, str(out))
    split = ShardedDataset.open(Location.parse(out)).split("train")
    with Path(split.shard_uri(UNREADABLE_ROW)).open("r+b") as shard:
        shard.seek(int(split.image_offsets[UNREADABLE_ROW]))
        shard.write(bytes(100))
    return out


def pack_scenes(
    scenes: Path, out: str, environment: dict[str, str] | None = None, *, images_per_shard: int = 30
) -> None:
    """Pack the scenes with shards/build.py to a URI."""
    program = [sys.executable, str(ROOT / "shards" / "build.py")]
    options = arguments(f"--source={scenes}", f"--out={out}", f"--images-per-shard={images_per_shard}")
    subprocess.run([*program, *options], env=job_environment(environment), check=True, capture_output=True)
