"""Undisturbed runs to compare with, clusters whose nodes come and go, and a table of what was survived."""

import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures_faults import LONG, RunningJob
from fixtures_ray import ENVIRONMENT

_ROWS: list[tuple[RunningJob, str, list[float]]] = []


@pytest.fixture(scope="session")
def survived() -> Callable[[RunningJob, str, list[float]], None]:
    """Return what notes a kind of fault in a run and, for each one injected, the seconds until more was saved."""
    return lambda running, fault, seconds: _ROWS.append((running, fault, seconds))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _ROWS:
        terminalreporter.section("faults, seconds to the next step or shard, and what the audit found")
        for running, fault, seconds in _ROWS:
            spread = f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"
            terminalreporter.write_line(f"{fault}: {len(seconds)} x, {spread}; {running.audited}")


@pytest.fixture(scope="session")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> RunningJob:
    """Return a finished pretraining of two workers that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return RunningJob(folder, str(folder), f"--data={shards}", *LONG).start().finish()


@pytest.fixture(scope="session")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> RunningJob:
    """Return a whole run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    return RunningJob(folder, str(folder), f"--data={shards}", "--no-random-baseline").start().finish()


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Return a cluster of its own whose head has no CPU: only Ray's and the driver's own processes live there."""
    from ray.cluster_utils import Cluster

    quick = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, **quick}.items():
            patch.setenv(name, value)
        head = {"num_cpus": 0, "object_store_memory": 200_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=head, connect=False)
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture
def on_cluster(cluster: Any) -> dict[str, str]:
    """Return the environment of a job on the cluster."""
    quick = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1"}
    return {name: os.environ[name] for name in ENVIRONMENT} | quick | {"RAY_ADDRESS": cluster.address}
