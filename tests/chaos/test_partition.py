"""Two nodes in network namespaces of their own that lose sight of each other, and find each other again."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures_faults import LONG, RunningJob
from fixtures_ray import ENVIRONMENT

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(1800)]
_LINK = "luss0"
_RAY = str(Path(sys.executable).parent / "ray")


class TwoNetworks:
    """Two network namespaces joined by a virtual cable."""

    def __init__(self) -> None:
        tag = os.getpid() % 10_000
        self.names = (f"lussa{tag}", f"lussb{tag}")
        self.addresses = ("10.213.71.1", "10.213.71.2")
        self.nodes: list[subprocess.Popen[bytes]] = []

    def lay(self) -> None:
        """Make them.

        Raises:
            CalledProcessError: this is not permitted here.
        """
        for name in self.names:
            _ip("netns", "add", name)
        here, there = self.names
        _ip("link", "add", _LINK, "netns", here, "type", "veth", "peer", _LINK, "netns", there)
        for name, address in zip(self.names, self.addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", _LINK)
            for link in ("lo", _LINK):
                _ip("-n", name, "link", "set", link, "up")

    def cut(self) -> None:
        """Take the cable out."""
        _ip("-n", self.names[0], "link", "set", _LINK, "down")

    def heal(self) -> None:
        """Put the cable back."""
        _ip("-n", self.names[0], "link", "set", _LINK, "up")

    def start_node(self, place: int, folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a Ray node in one of them; the first is the head."""
        role = ["--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={folder}"]
        if place:
            role = [f"--address={self.addresses[0]}:6379"]
        size = [f"--node-ip-address={self.addresses[place]}", "--num-cpus=1", "--object-store-memory=500000000"]
        with (folder / f"node-{place}.log").open("ab") as log:
            node = subprocess.Popen(
                ["ip", "netns", "exec", self.names[place], _RAY, "start", "--block", *role, *size],
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.nodes.append(node)
        return node

    def wait_for_head(self, environment: dict[str, str]) -> None:
        """Return when the head answers."""
        ask = ["ip", "netns", "exec", self.names[0], _RAY, "health-check", f"--address={self.addresses[0]}:6379"]
        while subprocess.run(ask, env=environment, capture_output=True, check=False).returncode:
            assert self.nodes[0].poll() is None, "the head has ended"

    def remove(self) -> None:
        """End all processes in them, and them."""
        for name in self.names:
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
            for pid in pids.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        for node in self.nodes:
            node.wait()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def networks() -> Iterator[TwoNetworks]:
    networks = TwoNetworks()
    try:
        networks.lay()
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        networks.remove()
        pytest.skip(f"needs iproute2 and the right to make network namespaces: {error}")
    yield networks
    networks.remove()


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a folder whose path is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="partition-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_a_partition_that_heals(short: Path, networks: TwoNetworks, shards: Path, tmp_path: Path, survived) -> None:
    quick = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000"}
    environment = {**os.environ, **ENVIRONMENT, **quick, "GLOO_SOCKET_IFNAME": _LINK}
    networks.start_node(0, short, environment)
    address = f"{networks.addresses[0]}:6379"
    options = (f"--data={shards}", *LONG, "--num-workers=1 2", "--resize-every-s=1", "--checkpoint-every-s=1")
    running = RunningJob(
        tmp_path,
        str(tmp_path),
        *options,
        "--pretrain.optimisation.epochs=250",
        environment={**ENVIRONMENT, "RAY_ADDRESS": address, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1"},
        prefix=("ip", "netns", "exec", networks.names[0]),
    )
    networks.wait_for_head(environment)
    other = networks.start_node(1, short, environment)
    running.start()
    running.wait_for_step(3)
    running.wait_for(lambda: "2 workers from step" in running.said or _two_began(running), "two workers")
    networks.cut()
    cut = time.monotonic()
    running.wait_for(lambda: "1 worker from step" in running.said, "one worker on this side")
    running.wait_for_step(running.step() + 2)
    survived(running, "network partition: 2 workers to 1", [time.monotonic() - cut])
    networks.heal()
    healed, count = time.monotonic(), running.said.count("2 workers from step")
    other.wait(120)  # a node that was declared dead ends itself when it hears of it
    networks.start_node(1, short, environment)
    running.wait_for(lambda: running.said.count("2 workers from step") > count, "two workers again")
    survived(running, "partition healed, node back: 1 worker to 2", [time.monotonic() - healed])
    running.finish()


def _two_began(running: RunningJob) -> bool:
    return len(running.processes("ray::RayTrainWorker")) == 2
