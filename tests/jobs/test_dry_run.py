"""What jobs say they would do, and that they don't."""

import subprocess
from pathlib import Path

import pytest
from fixtures_run import TINY, arguments, audit_command, job_environment, run_program


def words(shards: Path, folder: Path, *more: str) -> list[str]:
    return ["demo", *arguments(*TINY, f"--data={shards}", f"--storage={folder / 'runs'}", *more), "--dry-run"]


@pytest.mark.parametrize("job", ["pass.py", "finetune.py"])
def test_the_plan_is_told_and_nothing_is_written(job: str, shards: Path, tmp_path: Path) -> None:
    shown = run_program(job, tmp_path, *words(shards, tmp_path, "--finetune.optimisation.batch-size=16"))
    assert (
        "nothing has been done" in shown
        and "finetune" in shown
        and "steps of 16" in shown
        and "PFLOP" in shown
        and "luss-ray doctor" in shown
    )
    assert ("pretrain" in shown) == (job == "pass.py")
    assert not (tmp_path / "runs").exists()


def test_the_plan_of_images_that_are_still_to_be_packed(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.jpg").write_bytes(bytes(1000))
    shown = run_program("pass.py", tmp_path, *words(folder, tmp_path))
    assert "would first be packed: 40 in train, 0.0 MB" in shown and "2 steps of 32: 2 epochs of 40 images" in shown
    assert sorted(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("job", ["pass.py", "finetune.py"])
def test_the_plan_of_the_demo_on_a_fresh_machine(job: str, tmp_path: Path) -> None:
    shown = run_program(job, tmp_path, "--storage", str(tmp_path / "runs"), "--dry-run")
    assert "2,000 in train, 60 in train-semi, 300 in validation" in shown and "PFLOP" in shown
    assert ("750 steps of 64: 24 epochs of 2,000 images" in shown) == (job == "pass.py")
    assert not list(tmp_path.iterdir())


def test_an_audit_says_which_stages_it_would_look_at(tmp_path: Path) -> None:
    (tmp_path / "run" / "pretrain").mkdir(parents=True)
    (tmp_path / "run" / "pretrain" / "order.json").write_text("{}")
    command = [*audit_command(str(tmp_path / "run")), "--dry-run"]
    done = subprocess.run(command, env=job_environment(), capture_output=True, text=True, check=True)
    assert "training stages to audit: pretrain; nothing has been written" in done.stdout
