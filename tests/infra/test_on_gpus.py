"""Waiting for nodes before a command starts: on a real cluster whose nodes are added by hand."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from fixtures_ray import ENVIRONMENT
from fixtures_run import job_environment, load_program

from luss_ray.core.errors import UserError

PROGRAM = Path(__file__).parents[2] / "infra" / "on_gpus.py"
_NODE = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": 100_000_000}
_TELL = "import ray, sys; ray.init(); print('GPUs', ray.available_resources()['GPU']); sys.exit(3)"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Return a cluster at rest: its head has no CPU."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        head = {"num_cpus": 0, "object_store_memory": 100_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=head, connect=False)
        try:
            yield cluster
        finally:
            cluster.shutdown()


def _start(cluster: Any, *words: str) -> subprocess.Popen[str]:
    """Start the program, which says that it waits after a tenth of a second."""
    code = f"import runpy, sys; sys.argv = {['on_gpus.py', *words]!r}; "
    code += f"module = runpy.run_path({str(PROGRAM)!r}); module['main'].__globals__['_SAY_EVERY_S'] = 0.1; "
    code += "module['run'](module['main'])"
    environment = job_environment({**ENVIRONMENT, "RAY_ADDRESS": cluster.address, "CUDA_VISIBLE_DEVICES": ""})
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        env=environment | {"PYTHONPATH": os.pathsep.join([environment["PYTHONPATH"], *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _next_line(process: subprocess.Popen[str], word: str) -> str:
    """Return the next line with this word."""
    assert process.stdout is not None
    return next(line for line in process.stdout if word in line)


def test_the_command_starts_when_the_nodes_are_there(cluster: Any) -> None:
    process = _start(cluster, "2", "--cpus", "3", "--", sys.executable, "-c", _TELL)
    assert "2 GPUs (0 there), 3 CPUs (0 there)" in _next_line(process, "waiting")
    nodes = [cluster.add_node(**_NODE), cluster.add_node(**_NODE)]
    assert "GPUs 2.0" in _next_line(process, "GPUs 2"), "all that was waited for is free for the command"
    process.communicate()
    assert process.returncode == 3
    for node in nodes:
        cluster.remove_node(node)


@pytest.mark.parametrize("num_gpus", ["8", "0"], ids=["while it waits", "while the command runs"])
def test_it_ends_when_it_is_stopped_and_its_command_with_it(cluster: Any, num_gpus: str) -> None:
    script = "import os, time; print('waiting in', os.getpid(), flush=True); time.sleep(600)"
    process = _start(cluster, num_gpus, "--", sys.executable, "-c", script)
    last = _next_line(process, "waiting").split()[-1]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == signal.SIGTERM
    if num_gpus == "0":
        assert not psutil.pid_exists(int(last))


@pytest.fixture
def program() -> ModuleType:
    return load_program("infra/on_gpus.py")


def test_gpus_alone_or_with_cpus(program: ModuleType) -> None:
    assert program.parse(["8", "--", "a", "--", "b"]) == ({"GPU": 8, "CPU": 0}, ["a", "--", "b"])
    assert program.parse(["0", "--cpus", "64", "--", "a"]) == ({"GPU": 0, "CPU": 64}, ["a"])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["8"],
        ["8", "--"],
        ["eight", "--", "true"],
        ["8", "true", "x"],
        ["8", "--cpus", "--", "true"],
        ["8", "--cpus", "many", "--", "true"],
        ["--cpus", "8", "--", "true"],
    ],
)
def test_a_bad_command_line_is_explained(program: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(UserError, match="-- COMMAND"):
        program.parse(arguments)
