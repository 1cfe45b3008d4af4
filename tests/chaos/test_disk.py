"""A disk that another program fills up in the middle of a stage, and that has space again later."""

import errno
from pathlib import Path

import pytest
from fixtures_disk import tiny_disk
from fixtures_faults import LONG, RunningJob

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(1800)]
_STAGES = ("attention", "features", "pseudo-labels", "finetune", "predictions")


def fill(disk: Path) -> Path:
    """Write a file until nothing more fits on a disk."""
    path = disk / "other-program.bin"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return path


def ends_in_one_line(running: RunningJob, said_before: int) -> None:
    """Wait for the end of a job whose disk is full: the last line says so, and no traceback."""
    assert running.end() == 2, running.said[-3000:]
    said = running.said[said_before:]
    assert "no space left on device" in said.splitlines()[-1] and said.count("error: ") == 1, said
    assert "Traceback" not in said, said


def test_a_disk_full_in_the_middle_of_training(shards: Path, tmp_path: Path, undisturbed: RunningJob, survived) -> None:
    """The newest checkpoint and what it counts stay; training goes on from there."""
    with tiny_disk(tmp_path / "disk", "20m") as disk:
        running = RunningJob(tmp_path, str(disk), f"--data={shards}", *LONG).start()
        running.wait_for_step(5)
        filler, before = fill(disk), running.step()
        ends_in_one_line(running, 0)
        saved = running.step()
        assert before <= saved < 150
        audit = running.audit()
        assert f" {saved}/150 " in audit and "1 training stages add up" in audit
        filler.unlink()
        seconds = running.start().seconds_to_more("pretrain")
        survived(running, "disk full in training; started again with space", [seconds])
        running.finish()
        assert f"from step {saved} on" in running.said
        assert running.weights() == undisturbed.weights()
        assert not list(disk.rglob("*#*"))


def test_a_disk_full_in_every_later_stage(shards: Path, tmp_path: Path, whole: RunningJob, survived) -> None:
    with tiny_disk(tmp_path / "disk", "50m") as disk:
        options = (f"--data={shards}", "--no-random-baseline", "--checkpoint-every-s=0")
        running = RunningJob(tmp_path, str(disk), *options).start()
        for stage in _STAGES:
            running.wait_for((running.run / stage / "begun.json").local_path.exists, f"begin of {stage}")
            filler, said = fill(disk), len(running.said)
            ends_in_one_line(running, said)
            filler.unlink()
            seconds = running.start().seconds_to_more(stage)
            survived(running, f"disk full in {stage}; started again with space", [seconds])
        running.finish()
        for stage in ("pretrain", "attention", "finetune"):
            assert running.weights(stage) == whole.weights(stage)
        assert running.published() == whole.published()
        assert running.result()["metrics"] == whole.result()["metrics"]
        assert not list(disk.rglob("*#*"))
