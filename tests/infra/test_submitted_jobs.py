"""`ray job submit` to a head that wants a token and grows nodes as jobs need them, watched by Prometheus.

One head for all tests here; its port is fixed by Ray's fake cloud, so nothing like it may run beside it.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import fixtures_run as job
import pytest
import yaml

from luss_ray.storage.uri import Location

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
_BIN = Path(sys.executable).parent
_TOKEN = "a-token-of-these-tests-and-of-nothing-else"
_HEAD_ID = "0" * 8  # prefix of the identity that the fake cloud gives to its head
_CLOUD = {
    "cluster_name": "tests",
    "max_workers": 3,
    "idle_timeout_minutes": 0.1,
    "upscaling_speed": 100.0,
    "head_node_type": "head",
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
    },
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "spot": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 3},
    },
}


class Head:
    """A head node without CPUs in a cloud that fakes its nodes on this machine."""

    def __init__(self, folder: Path) -> None:
        from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        _CLOUD["provider"]["head_node_id"] = FAKE_HEAD_NODE_ID
        (folder / "cloud.yaml").write_text(yaml.safe_dump(_CLOUD))
        self.environment = job.job_environment(
            {
                "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": _TOKEN,
                "RAY_FAKE_CLUSTER": "1",
                "RAY_enable_autoscaler_v2": "1",
                "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
                "RAY_USAGE_STATS_ENABLED": "0",
                "PYTHONDONTWRITEBYTECODE": "",
            }
        )
        self.client = {k: v for k, v in self.environment.items() if k not in _NODE_VARIABLES}
        self.client["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["--head", "--block", "--port=6379", "--num-cpus=0", "--object-store-memory=200000000"]
        words += [f"--autoscaling-config={self.folder}/cloud.yaml", f"--temp-dir={self.folder}"]
        words += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.port}"]
        with (self.folder / "head.log").open("ab") as log:
            self.process = subprocess.Popen(
                [_BIN / "ray", "start", *words], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        _wait_until(lambda: self.ray("job", "list").returncode == 0, "answer of the head")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)

    def ray(self, *words: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_BIN / "ray", *words], env=self.client, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def submit(self, storage: Path, data: Path, *options: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
        words = job.command(f"--data={data}", f"--storage={storage}", *options, f"--log={storage}/ray.log")
        how = [f"--working-dir={ROOT}"] + ([] if wait else ["--no-wait"])
        return self.ray("job", "submit", *how, "--", "python", "jobs/pass.py", *words[2:])

    def num_workers(self) -> int:
        """Return how many nodes besides the head are alive."""
        listed = self.ray("list", "nodes", "--format=json", "--limit=1000")
        nodes = json.loads(listed.stdout[listed.stdout.index("[") :]) if "[" in listed.stdout else []
        return sum(node["state"] == "ALIVE" and not node["is_head_node"] for node in nodes)


_NODE_VARIABLES = ("RAY_FAKE_CLUSTER", "RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING")


def _wait_until(event: Callable[[], object], what: str, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not event():
        assert time.monotonic() < deadline, f"no {what} in {timeout_s} s"
        time.sleep(1)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(f"/tmp/head-{os.getpid()}")  # short: it holds unix sockets
    folder.mkdir()
    head = Head(folder)
    try:
        head.start()
        yield head
    finally:
        head.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_nodes_come_for_a_job_and_go_after_it(head: Head, shards: Path, tmp_path: Path) -> None:
    assert head.num_workers() == 0
    done = head.submit(tmp_path, shards, "--until=pretrain", "--num-workers=1 2")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert (tmp_path / "demo" / "pretrain" / "weights.safetensors").exists()
    assert "result" in done.stdout and _TOKEN not in done.stdout + done.stderr
    assert head.num_workers() >= 1
    _wait_until(lambda: head.num_workers() == 0, "end of the nodes")


def test_without_the_token_nobody_gets_in(head: Head, shards: Path, tmp_path: Path) -> None:
    stranger = {**head.client, "RAY_AUTH_TOKEN": "of-somebody-else-and-just-as-long"}
    done = subprocess.run(
        [_BIN / "ray", "job", "list"], env=stranger, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0 and ("401" in done.stderr or "Unauth" in done.stdout + done.stderr)


def test_a_job_that_is_stopped_goes_on_when_it_is_submitted_again(head: Head, shards: Path, tmp_path: Path) -> None:
    options = ("--until=pretrain", "--num-workers=1 1", "--checkpoint-every-s=0")
    options += ("--pretrain.optimisation.epochs=400",)
    sent = head.submit(tmp_path, shards, *options, wait=False)
    name = sent.stdout.split("raysubmit_")[1].split()[0].strip("'\"")
    identity = f"raysubmit_{name}"
    checkpoints = Location.parse(tmp_path / "demo" / "pretrain" / "checkpoints")
    _wait_until(lambda: checkpoints.list(suffix=".safetensors"), "checkpoint")
    metrics = _Prometheus(head)
    try:
        _wait_until(lambda: metrics.value('max(luss_ray_step{stage="pretrain"})') > 0, "figure in Prometheus")
        failing = [expression for expression in _dashboard() if not metrics.answers(expression)]
        assert not failing
        gauges = [f"luss_ray_{name}" for name in ("images_per_s", "data_wait_s", "data_ready_steps")]
        assert all(metrics.value(f"count({gauge})") >= 1 for gauge in gauges)
    finally:
        metrics.stop()
    assert "pretrain" in head.ray("job", "logs", identity).stdout
    assert head.ray("job", "stop", identity).returncode == 0
    saved = int(checkpoints.list(suffix=".safetensors")[-1].removesuffix(".safetensors"))
    assert not (tmp_path / "demo" / "pretrain" / "stage.json").exists()
    again = head.submit(tmp_path, shards, *options)
    assert again.returncode == 0, again.stdout[-3000:]
    assert f"1 worker from step {saved} on" in again.stdout
    audit = subprocess.run(
        job.audit_command(str(tmp_path / "demo")), env=job.job_environment(), capture_output=True, check=False
    )
    assert audit.returncode == 0


def _dashboard() -> list[str]:
    panels = json.loads((ROOT / "infra" / "grafana.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


class _Prometheus:
    """Debian's Prometheus with infra/prometheus.yml, looking at the head's own list of nodes."""

    def __init__(self, head: Head) -> None:
        if shutil.which("prometheus") is None:
            pytest.skip("needs Prometheus (Debian's package of this name)")
        written = (ROOT / "infra" / "prometheus.yml").read_text()
        config = head.folder / "prometheus.yml"
        config.write_text(written.replace("/tmp/ray/", f"{head.folder}/").replace(": 10s", ": 6s"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        words = [f"--config.file={config}", f"--storage.tsdb.path={head.folder}/prometheus"]
        with (head.folder / "prometheus.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["prometheus", *words, f"--web.listen-address={self.address}"], stdout=log, stderr=log
            )

    def query(self, expression: str) -> dict:
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{self.address}/api/v1/query?{query}", timeout=10) as answer:
            return json.loads(answer.read())

    def value(self, expression: str) -> float:
        try:
            result = self.query(expression)["data"]["result"]
        except OSError:
            return 0.0
        return float(result[0]["value"][1]) if result else 0.0

    def answers(self, expression: str) -> bool:
        return self.query(expression)["status"] == "success"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
