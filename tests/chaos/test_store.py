"""An object store that is killed, slow, overloaded, or refuses to be written."""

import subprocess
import sys
import time
from pathlib import Path

import fixtures_run as job
import pytest
from fixtures_faults import LONG, RunningJob
from fixtures_proxy import SlowProxy
from fixtures_s3 import S3Server

from luss_ray.stages.run import BEGUN, STAGE
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location
from luss_ray.storage.verify import verify

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]
_LATER = ("features", "pseudo-labels", "finetune", "predictions")


@pytest.mark.long
def test_a_store_in_trouble(
    s3_environment: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    scenes: Path,
    tmp_path: Path,
    survived,
) -> None:
    server = s3_environment
    bucket = server.bucket("chaos")
    job.pack_scenes(scenes, f"{bucket}/scenes", server.environment())
    options = (f"--data={bucket}/scenes", *LONG)
    calm = RunningJob(tmp_path, f"{bucket}/calm", *options, environment=server.environment()).start().finish()
    proxy = SlowProxy(server.endpoint, delay_s=0)
    through_proxy = {**server.environment(), "AWS_ENDPOINT_URL": proxy.endpoint}
    running = RunningJob(tmp_path, f"{bucket}/runs", *options, environment=through_proxy).start()
    running.wait_for_step(5)

    server.kill()
    _wait_until(running, lambda: proxy.num_unconnected >= 5)
    server.start()
    survived(running, "store killed (SIGKILL) and started again", [_seconds_to_next_step(running)])

    proxy.delay_s = 0.5
    survived(running, "store answers 500 ms late", [_seconds_to_next_step(running)])
    proxy.delay_s = 0

    proxy.refuse("503 Service Unavailable")
    ends = time.monotonic() + 60
    _wait_until(running, lambda: time.monotonic() > ends)
    assert proxy.num_refused > 3
    proxy.accept()
    survived(running, "store answers 503 for a minute", [_seconds_to_next_step(running)])

    proxy.refuse("403 Forbidden", reads=False)
    assert running.end() == 2 and "access refused" in running.said.splitlines()[-1]
    proxy.accept()
    running.start()
    survived(running, "store refuses writes; the same command later", [_seconds_to_next_step(running)])
    running.finish()
    assert running.weights() == calm.weights()
    for secret in (server.environment()["AWS_SECRET_ACCESS_KEY"],):
        assert secret not in running.said
    proxy.close()


@pytest.mark.long
def test_a_store_in_trouble_in_every_later_stage(
    s3_environment: S3Server, shards: Path, tmp_path: Path, whole: RunningJob, survived
) -> None:
    """In each one slow at first, then killed and started again; what is published are the same shards."""
    server = s3_environment
    bucket = server.bucket("chaos-later")
    for path in shards.rglob("*"):
        if path.is_file():
            server.client().upload_file(str(path), "chaos-later", f"scenes/{path.relative_to(shards)}")
    proxy = SlowProxy(server.endpoint, delay_s=0)
    through_proxy = {**server.environment(), "AWS_ENDPOINT_URL": proxy.endpoint}
    options = (f"--data={bucket}/scenes", "--no-random-baseline", "--checkpoint-every-s=0")
    running = RunningJob(tmp_path, f"{bucket}/runs", *options, environment=through_proxy).start()
    for stage in _LATER:
        begun = running.run / stage / BEGUN
        running.wait_for(begun.exists, f"begin of {stage}")
        proxy.delay_s = 0.5
        survived(running, f"store answers 500 ms late in {stage}", [running.seconds_to_more(stage)])
        proxy.delay_s, unconnected = 0, proxy.num_unconnected
        server.kill()
        _wait_until(running, lambda: proxy.num_unconnected >= unconnected + 3)  # noqa: B023
        server.start()
        started = time.monotonic()
        running.wait_for((running.run / stage / STAGE).exists, f"end of {stage}")
        survived(running, f"store killed and started again in {stage}, until its end", [time.monotonic() - started])
    running.finish()
    assert running.published() == whole.published()
    assert running.result()["metrics"] == whole.result()["metrics"]
    proxy.close()


def test_shards_packed_while_the_store_is_slow_and_killed(
    s3_environment: S3Server, scenes: Path, tmp_path: Path
) -> None:
    server = s3_environment
    out = Location.parse(server.bucket("chaos-packed")) / "scenes"
    proxy = SlowProxy(server.endpoint, delay_s=0.5)
    environment = job.job_environment({**server.environment(), "AWS_ENDPOINT_URL": proxy.endpoint})
    command = [sys.executable, str(job.ROOT / "shards" / "build.py"), "--source", str(scenes), "--out", out.uri]
    with (tmp_path / "said").open("wb") as said:
        packer = subprocess.Popen([*command, "--images-per-shard", "10"], env=environment, stdout=said, stderr=said)
        while len(out.list(suffix=".tar")) < 3:
            assert packer.poll() is None, "packed before the fault"
        server.kill()
        while proxy.num_unconnected < 3:
            assert packer.poll() is None, (tmp_path / "said").read_text()
        server.start()
        assert packer.wait() == 0, (tmp_path / "said").read_text()
    packed = ShardedDataset.open(out)
    assert not [problem for _, found in verify(packed) for problem in found]
    assert set(out.list(suffix=".tar")) == set(packed.manifest.shards)
    proxy.close()


def _wait_until(running: RunningJob, event) -> None:
    running.wait_for(event, "the fault to be felt")


def _seconds_to_next_step(running: RunningJob) -> float:
    started = time.monotonic()
    running.wait_for_step(running.step() + 2)
    return time.monotonic() - started
