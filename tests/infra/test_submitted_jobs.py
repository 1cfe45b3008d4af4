"""`ray job submit` to a head that wants a token and grows nodes as jobs need them, watched by Prometheus.

One head for all tests here. Its port is fixed by Ray's fake cloud, so nothing like it may run beside it.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import fixtures_run as job
import pytest
import yaml
from fixtures_head import Head, free_port
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

from luss_ray.storage.uri import Location

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
_BIN = Path(sys.executable).parent
_TOKEN = "a-token-of-these-tests-and-of-nothing-else"
_HEAD_TYPE = "ray.head.default"  # as the fake cloud calls it, whatever is configured
_CPUS_A_NODE = 2
_CLOUD = {
    "cluster_name": "tests",
    "max_workers": 3,
    "idle_timeout_minutes": 0.1,
    "upscaling_speed": 100.0,
    # "external": Ray's wheel lacks the file of defaults that belongs to "fake_multinode".
    "provider": {
        "type": "external",
        "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
        "head_node_id": FAKE_HEAD_NODE_ID,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
    },
    "head_node_type": _HEAD_TYPE,
    "available_node_types": {
        _HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "spot": {
            "resources": {"CPU": _CPUS_A_NODE, "object_store_memory": 200_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 3,
        },
    },
    "initialization_commands": [],
    **{
        f"{when}_commands": [] for when in ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    },
    "cluster_synced_files": [],
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
}
_OF_NODES = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "PYTHONDONTWRITEBYTECODE": "",
}


class CloudHead(Head):
    """A head node without CPUs in a cloud that fakes its nodes on this machine."""

    def __init__(self, folder: Path) -> None:
        (folder / "cloud.yaml").write_text(yaml.safe_dump(_CLOUD))
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN}
        words = ["--port=6379", "--num-cpus=0", f"--autoscaling-config={folder}/cloud.yaml"]
        super().__init__(folder, *words, environment=token | _OF_NODES, client=token)

    def submit(
        self, storage: Path, data: Path, *options: str, cpus: int = 0, wait: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Submit the main job, once there are so many CPUs, as infra/README.md says."""
        words = job.command(f"--data={data}", f"--storage={storage}", *options, f"--log={storage}/ray.log")[2:]
        how = [f"--working-dir={ROOT}", *([] if wait else ["--no-wait"]), "--"]
        nodes = ["python", "infra/on_gpus.py", "0", "--cpus", str(cpus), "--"] if cpus else []
        return self.ray("job", "submit", *how, *nodes, "python", "jobs/pass.py", *words)

    def get(self, path: str, token: str = _TOKEN) -> bytes:
        """Return what the head's server answers."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.read()

    def nodes(self, *states: str) -> set[str]:
        """Return the nodes beside the head that are in one of these states."""
        listed = json.loads(self.get("/api/v0/nodes?limit=1000"))["data"]["result"]["result"]
        return {node["node_id"] for node in listed if node["state"] in states and not node["is_head_node"]}

    def wait_until_at_rest(self) -> None:
        """Wait until no node but the head is left."""
        self.wait_until(lambda: not self.nodes("ALIVE"), "end of the nodes", timeout_s=600)


@pytest.fixture(scope="module")
def head() -> Iterator[CloudHead]:
    with socket.socket() as taken:
        if taken.connect_ex(("127.0.0.1", 6379)) == 0:
            pytest.skip("needs port 6379, where something listens already")
    folder = Path(f"/tmp/head-{os.getpid()}")  # short: it holds unix sockets
    folder.mkdir()
    head = CloudHead(folder)
    try:
        yield head
    finally:
        head.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_without_the_token_nobody_gets_in(head: CloudHead) -> None:
    stranger = "of-somebody-else-and-just-as-long"
    with pytest.raises(urllib.error.HTTPError) as refused:
        head.get("/api/jobs/", stranger)
    assert refused.value.code in (401, 403)
    done = subprocess.run(
        [_BIN / "ray", "job", "submit", "--", "true"],
        env={**head.client, "RAY_AUTH_TOKEN": stranger},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0 and "submitted" not in done.stdout
    assert "auth" in done.stderr.lower()


def test_a_job_on_a_cluster_at_rest_says_what_to_do(head: CloudHead, shards: Path, tmp_path: Path) -> None:
    done = head.submit(tmp_path, shards, "--until=pretrain", "--num-workers=1 2")
    assert done.returncode == 1
    (line,) = set(re.findall(r"^error: .*", done.stdout, re.MULTILINE))  # Ray shows the end of the log once more
    assert "infra/on_gpus.py" in line and "Traceback" not in done.stdout
    assert not head.nodes("ALIVE", "DEAD"), "no node was paid for"


def test_nodes_come_for_a_job_and_go_after_it(head: CloudHead, shards: Path, tmp_path: Path) -> None:
    head.wait_until_at_rest()
    before = head.nodes("DEAD")
    done = head.submit(tmp_path, shards, "--until=pretrain", "--num-workers=2 2", cpus=2 * _CPUS_A_NODE)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert (tmp_path / "demo" / "pretrain" / "weights.safetensors").exists()
    assert _TOKEN not in done.stdout + done.stderr
    head.wait_until_at_rest()
    assert len(head.nodes("DEAD") - before) == 2


def test_a_job_that_is_stopped_goes_on_when_it_is_submitted_again(
    head: CloudHead, shards: Path, tmp_path: Path
) -> None:
    options = ("--until=pretrain", "--num-workers=1 1", "--checkpoint-every-s=0", "--pretrain.optimisation.epochs=80")
    sent = head.submit(tmp_path, shards, *options, cpus=_CPUS_A_NODE, wait=False)
    assert sent.returncode == 0, sent.stderr[-2000:]
    (identity,) = set(re.findall(r"raysubmit_\w+", sent.stdout))
    assert head.ray("job", "status", identity).returncode == 0
    checkpoints = Location.parse(tmp_path / "demo" / "pretrain" / "checkpoints")
    head.wait_until(lambda: checkpoints.list(suffix=".safetensors"), "checkpoint")
    with _prometheus(head) as query:
        for expression in _dashboard():
            head.wait_until(lambda: query(expression), f"answer to {expression}")  # noqa: B023
        stages = {row["metric"]["stage"] for row in query("ray_luss_ray_step")}
        assert stages == {"pretrain"}
    assert head.ray("job", "stop", identity).returncode == 0
    assert "STOPPED" in head.ray("job", "list").stdout
    assert "pretrain: " in head.ray("job", "logs", identity).stdout
    assert not (tmp_path / "demo" / "pretrain" / "stage.json").exists(), "it was stopped before its end"
    head.wait_until_at_rest()
    saved = int(checkpoints.list(suffix=".safetensors")[-1].removesuffix(".safetensors"))
    again = head.submit(tmp_path, shards, *options, cpus=_CPUS_A_NODE)
    assert again.returncode == 0, again.stdout[-3000:]
    assert f"1 worker from step {saved} on" in again.stdout
    audit = job.audit(tmp_path / "demo")
    assert audit.returncode == 0 and "add up" in audit.stdout
    head.wait_until_at_rest()


def _dashboard() -> list[str]:
    """Return what the panels of infra/grafana.json ask for, that of GPUs aside where there is none."""
    panels = json.loads((ROOT / "infra" / "grafana.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    return [each for each in expressions if "gpu" not in each]


@contextlib.contextmanager
def _prometheus(head: CloudHead) -> Iterator[Callable[[str], list[dict]]]:
    """Start Prometheus with infra/prometheus.yml, looking at the head's own list of nodes; return what queries it."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs Prometheus (Debian's package of this name)")
    written = (ROOT / "infra" / "prometheus.yml").read_text()
    assert written.count("/tmp/ray/") == 1
    (head.folder / "prometheus.yml").write_text(written.replace("/tmp/ray/", f"{head.folder}/"))
    address = f"127.0.0.1:{free_port()}"
    words = [f"--config.file={head.folder}/prometheus.yml", f"--storage.tsdb.path={head.folder}/prometheus"]

    def query(expression: str) -> list[dict]:
        words = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://{address}/api/v1/query?{words}", timeout=10) as answer:
                return json.loads(answer.read())["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it begins
                return []
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        except urllib.error.URLError:  # it begins
            return []

    with (head.folder / "prometheus.log").open("ab") as log:
        process = subprocess.Popen([program, *words, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield query
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
