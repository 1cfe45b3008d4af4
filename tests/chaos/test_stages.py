"""The driver and every kind of actor killed, in every stage of a whole run."""

import shutil
from pathlib import Path

import pytest
from fixtures_faults import LONG, RunningJob

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(1800)]
_STAGES = (
    "pretrain",
    "attention",
    "features",
    "clusters",
    "threshold",
    "pseudo-labels",
    "finetune",
    "predictions",
    "evaluation",
)
_ACTORS = (
    "ray::RayTrainWorker",
    "ray::MapWorker(MapBatches(Loader))",
    "ray::MapWorker(MapBatches(ShardActor))",
    "ray::FeatureRows",
)


def test_the_driver_killed_in_every_stage(shards: Path, tmp_path: Path, whole: RunningJob, survived) -> None:
    """And started again at once: with Ray's own start that is the time until more is saved."""
    options = (f"--data={shards}", "--no-random-baseline", "--checkpoint-every-s=0")
    running = RunningJob(tmp_path, str(tmp_path), *options).start()
    for stage in _STAGES:
        running.wait_for((running.run / stage / "begun.json").local_path.exists, f"begin of {stage}")
        running.kill()
        before = running.results(stage)
        seconds = running.start().seconds_to_more(stage, before)
        survived(running, f"driver killed in {stage}, and started again", [seconds])
    running.finish()
    assert running.result()["metrics"] == whole.result()["metrics"]


def test_every_kind_of_actor_killed(shards: Path, tmp_path: Path, whole: RunningJob, survived) -> None:
    options = (f"--data={shards}", "--no-random-baseline", "--checkpoint-every-s=0")
    running = RunningJob(tmp_path, str(tmp_path), *options).start()
    for title in _ACTORS:
        running.wait_for(lambda: running.processes(title) and running.stage(), title)  # noqa: B023
        stage, victim = running.stage(), running.processes(title)[0]
        victim.kill()
        seconds = running.seconds_to_more(stage)
        survived(running, f"{title} killed in {stage}", [seconds])
    running.finish()
    assert running.result()["metrics"] == whole.result()["metrics"]


def test_a_checkpoint_torn_by_a_dying_disk(shards: Path, tmp_path: Path, undisturbed: RunningJob) -> None:
    """Half of the newest checkpoint is gone: the one before it is taken."""
    running = RunningJob(tmp_path, str(tmp_path), f"--data={shards}", *LONG).start()
    running.wait_for_step(5)
    running.kill()
    newest = sorted((running.run / "pretrain" / "checkpoints").local_path.glob("*.safetensors"))[-1]
    shutil.copy(newest, tmp_path / "whole")
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    running.start().finish()
    assert f"from step {int(newest.stem) - 1} on" in running.said
    assert running.weights() == undisturbed.weights()
