"""What the documentation tells people to type exists: every program, every option, every recipe, every file."""

import importlib.util
import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tyro
from fixtures_docs import BLOCK, PAGES, ROOT, TOOL, documented
from fixtures_run import job_environment

from luss_ray.cli import main
from luss_ray.config.command_line import parse
from luss_ray.config.recipes import RECIPES
from luss_ray.data.plan import Plan
from luss_ray.imagenet_s.lists import PUBLISHED

WITH_RECIPES = ("pass.py", "finetune.py", "distance_matching.py")


def commands() -> list[tuple[str, str, str]]:
    """(page, program, its words) of each command in a block of shell."""
    return [(page.name, program, words.replace("…", " ")) for page in PAGES for program, words in documented(page)]


def module_of(program: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(program).stem + "_documented", ROOT / program)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # tyro reads its source
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page, program, words", commands(), ids=lambda text: text.strip()[:60])
def test_commands_are_understood(page: str, program: str, words: str) -> None:
    given = shlex.split(words)
    if program == TOOL:
        check_options(getattr(main, given[0]), given, page)
        return
    module = module_of(program)
    asked = getattr(module, "Options", None)
    if program.rpartition("/")[2] in WITH_RECIPES:
        needed = [] if "--data" not in words or not words.rstrip().endswith("--data") else ["DATA"]
        needed += ["--weights", "W"] if program.endswith("matching.py") and "--weights" not in words else []
        parse(asked, given + needed, program=program, about="")  # pyright: ignore[reportArgumentType]
        return
    name = re.search(r"tyro\.cli\((\w+)", (ROOT / program).read_text())
    check_options(asked or getattr(module, name[1]), given, page)  # pyright: ignore[reportOptionalSubscript]


def check_options(entry: Any, given: list[str], page: str) -> None:
    """Check that a program has the options that a command gives it."""
    known = set(tyro.extras.get_parser(entry, config=(tyro.conf.EnumChoicesFromValues,))._option_string_actions)
    for word in given:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{page}: no {word}"


def test_there_are_commands() -> None:
    assert len(commands()) > 25 and {"jobs/pass.py", "jobs/segment.py", "shards/build.py"} <= {c[1] for c in commands()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_that_is_shown_compiles(page: Path) -> None:
    for language, block in BLOCK.findall(page.read_text()):
        if language == "python":
            compile(block, page.name, "exec")


def test_extending_works_as_shown() -> None:
    """The whole of docs/extending.md, run from top to bottom."""
    blocks = [
        block for language, block in BLOCK.findall((ROOT / "docs" / "extending.md").read_text()) if language == "python"
    ]
    assert len(blocks) >= 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, "extending.md", "exec"), names)


def test_reference_curves_are_drawn_as_shown(tmp_path: Path) -> None:
    """The command of docs/training.md, on figures of a run."""
    (words,) = re.findall(
        r"uv run (benchmarks/reference_curves\.py .*)$", (ROOT / "docs" / "training.md").read_text(), re.M
    )
    for stage in ("pretrain", "attention", "finetune"):
        rows = [{"step": step, "loss": 5 / step, "gradient_norm": 1.0} for step in range(1, 80)]
        (tmp_path / "runs" / "demo" / stage).mkdir(parents=True)
        lines = "\n".join(map(json.dumps, rows))
        (tmp_path / "runs" / "demo" / stage / "metrics.jsonl").write_text(lines)
    program, *given = shlex.split(words)
    environment = job_environment()
    subprocess.run([sys.executable, str(ROOT / program), *given], cwd=tmp_path, env=environment, check=True)
    assert "pretrain,loss,79," in (tmp_path / "curves" / "mine.csv").read_text()
    assert (tmp_path / "curves" / "mine.webp").stat().st_size > 1000


IMAGENET_1K = 1_281_167
"""Training images of all thousand classes."""


def test_where_the_recipes_curves_bend() -> None:
    """The table of docs/training.md, from the recipes."""
    rows = re.findall(r"^\| `([\w-]+)` \| (\d.*) \|$", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE)
    shown = {name: [float(word.replace(",", "")) for word in re.split(r" \| |, ", rest)] for name, rest in rows}
    assert {f"imagenet-s-{size}" for size in PUBLISHED} < shown.keys()
    for name, (images, *values) in shown.items():
        recipe = RECIPES[name]()
        pretrain, optimisation = recipe.pretrain, recipe.pretrain.optimisation
        if size := re.fullmatch(r"imagenet-s-(\d+)", name):
            assert images == (IMAGENET_1K if pretrain.split == "train-full" else PUBLISHED[int(size[1])]["train"])
        steps, queue_from = (
            Plan(np.zeros(int(images), np.int64), seed=0, global_batch=optimisation.batch_size, epochs=epochs).num_steps
            for epochs in (optimisation.epochs, pretrain.queue.start_epoch)
        )
        first_loss = round(math.log(recipe.prototypes.num), 1)
        bends = [pretrain.frozen_prototype_steps, queue_from, optimisation.lr, optimisation.final_lr]
        assert values == [steps, first_loss, *bends], name
