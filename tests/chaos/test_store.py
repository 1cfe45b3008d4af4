"""An object store that is killed, slow, overloaded, or refuses to be written."""

import time
from pathlib import Path

import fixtures_run as job
import pytest
from fixtures_faults import LONG, RunningJob
from fixtures_proxy import SlowProxy
from fixtures_s3 import S3Server

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(1800)]


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
    survived("store killed (SIGKILL) and started again", [_seconds_to_next_step(running)])

    proxy.delay_s = 0.5
    survived("store answers 500 ms late", [_seconds_to_next_step(running)])
    proxy.delay_s = 0

    proxy.refuse("503 Service Unavailable")
    ends = time.monotonic() + 60
    _wait_until(running, lambda: time.monotonic() > ends)
    assert proxy.num_refused > 3
    proxy.accept()
    survived("store answers 503 for a minute", [_seconds_to_next_step(running)])

    proxy.refuse("403 Forbidden", reads=False)
    assert running.end() == 2 and "access refused" in running.said.splitlines()[-1]
    proxy.accept()
    running.start()
    survived("store refuses writes; the same command later", [_seconds_to_next_step(running)])
    running.finish()
    assert running.weights() == calm.weights()
    for secret in (server.environment()["AWS_SECRET_ACCESS_KEY"],):
        assert secret not in running.said
    proxy.close()


def _wait_until(running: RunningJob, event) -> None:
    running.wait_for(event, "the fault to be felt")


def _seconds_to_next_step(running: RunningJob) -> float:
    started = time.monotonic()
    running.wait_for_step(running.step() + 2)
    return time.monotonic() - started
