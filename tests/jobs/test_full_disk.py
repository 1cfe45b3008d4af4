"""A disk that fills up in the middle of a run: one line and exit code 2; with more space the same command goes on."""

import subprocess
from pathlib import Path

import fixtures_run as job
import pytest
from fixtures_disk import resize_disk, tiny_disk

pytestmark = [pytest.mark.chaos, pytest.mark.e2e]


def test_a_disk_that_fills_up_during_training(shards: Path, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", "100k") as disk:
        options = [f"--data={shards}", f"--storage={disk}", "--until=pretrain", "--num-workers=1 1"]
        done = subprocess.run(
            job.command(*options, f"--log={tmp_path}/ray.log"),
            env=job.job_environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.count("\n") == 1 and "no space left on device" in done.stderr, done.stderr
        stage = disk / "demo" / "pretrain"
        assert not list(stage.rglob("*.safetensors")) and not (stage / "stage.json").exists()
        resize_disk(disk, "50m")
        job.run_job(tmp_path, *options)
        assert (stage / "stage.json").exists() and (stage / "weights.safetensors").exists()
        assert not list(disk.rglob("*#*"))
