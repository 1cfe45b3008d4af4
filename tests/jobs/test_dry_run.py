"""What jobs say they would do, and that they don't."""

from pathlib import Path

import pytest
from fixtures_run import TINY, arguments, program, run_program


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


def test_what_would_have_to_be_packed_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"")
    refused = program("pass.py", tmp_path, *words(folder, tmp_path))
    assert refused.returncode == 2 and "not packed yet" in refused.stdout + refused.stderr
