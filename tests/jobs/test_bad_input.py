"""What a user can get wrong ends in one clear line on stderr and exit code 2, and leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import fixtures_run as job
from fixtures_track import SECRET

from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location


def refused(folder: Path, *options: str, environment: dict[str, str] | None = None) -> str:
    """Return the one line that the main job says when it refuses."""
    done = subprocess.run(
        [sys.executable, str(job.ROOT / "jobs" / "pass.py"), *job.arguments(*options)],
        env=job.job_environment(environment),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


def test_unknown_names(tmp_path):
    assert "did you mean imagenet-s-50?" in refused(tmp_path, "imagenet-s50")
    assert "--pretrain.epochs" in refused(tmp_path, "demo", "--pretrain.epochs=3")
    assert "several" in refused(tmp_path, "demo", "--seed=several")
    assert "no weights at nope.pth" in refused(tmp_path, "demo", f"--storage={tmp_path}", "--weights=nope.pth")
    assert "must not lead out of --storage" in refused(
        tmp_path, "demo", f"--storage={tmp_path}", "--name=../elsewhere", "--dry-run"
    )
    assert list(tmp_path.iterdir()) == []


def test_data_that_is_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "nowhere" in refused(tmp_path, "demo", f"--data={tmp_path}/nowhere")
    assert "empty" in refused(tmp_path, "demo", f"--data={tmp_path}/empty")
    assert "--data" in refused(tmp_path, "imagenet-s-50")
    assert "AWS_" in refused(tmp_path, "demo", "--data=s3://bucket/data", environment={"HOME": str(tmp_path)})
    assert "gs://" in refused(tmp_path, "demo", "--data=gs://bucket/data")


def test_settings_that_do_not_fit_the_data(shards, tmp_path):
    options = (f"--data={shards}", f"--storage={tmp_path}")
    assert "num-workers" in refused(tmp_path, "demo", *options, "--num-workers=3 1")
    assert "batch of 200" in refused(tmp_path, "demo", *options, "--attention.optimisation.batch-size=200")
    assert list(tmp_path.iterdir()) == []
    assert "workers" in refused(
        tmp_path, "demo", *options, "--attention.optimisation.batch-size=2", "--num-workers=2 2"
    )
    assert "train-full" in refused(tmp_path, "imagenet-s-919", *options)


def test_storage_that_cannot_be_written(shards, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for storage in ("/proc/luss_ray", f"{tmp_path}/file/runs"):
        assert storage in refused(tmp_path, "demo", f"--data={shards}", f"--storage={storage}")


def test_trackers_that_can_not_be_reached(shards, tmp_path):
    options = (f"--data={shards}", f"--storage={tmp_path}/runs")
    assert "--track" in refused(tmp_path, "demo", *options, "--track=tensorbord")
    server = {"MLFLOW_TRACKING_URI": f"http://me:{SECRET}@127.0.0.1:9"}  # where nobody listens
    message = refused(tmp_path, "demo", *options, "--track=tensorboard mlflow", environment=server)
    assert "--track mlflow: http://127.0.0.1:9: " in message and "set MLFLOW_TRACKING_URI" in message
    nobody = {"WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(tmp_path), "WANDB_API_KEY": ""}
    message = refused(tmp_path, "demo", *options, "--track=wandb", environment=nobody)
    assert "--track wandb: http://127.0.0.1:9: no API key; set WANDB_API_KEY" in message
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in written and SECRET not in message


def test_more_unreadable_images_than_allowed(shards, tmp_path):
    options = (*job.TINY, f"--data={shards}", f"--storage={tmp_path}/runs", "--name=strict", "--max-bad-samples=0")
    message = refused(tmp_path, "demo", *options)
    bad = ShardedDataset.open(Location.parse(shards)).split("train").sample_uri(job.UNREADABLE_ROW)
    assert bad in message and "--max-bad-samples" in message
    assert not (tmp_path / "runs" / "strict" / "pretrain" / "weights.safetensors").exists()
