"""Undisturbed runs to compare with, clusters whose nodes come and go, and a table of what was survived."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fixtures_run as job
import pytest
from fixtures_faults import LONG, RunningJob
from fixtures_ray import ENVIRONMENT

_ROWS: list[tuple[str, list[float]]] = []


@pytest.fixture(scope="session")
def survived() -> Callable[[str, list[float]], None]:
    """Return what notes a kind of fault and, for each one injected, the seconds until the next step was saved."""
    return lambda fault, seconds: _ROWS.append((fault, seconds))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _ROWS:
        terminalreporter.section("faults survived; audits added up: no sample lost, none doubled")
        for fault, seconds in _ROWS:
            median = sorted(seconds)[len(seconds) // 2]
            spread = f"{median:.1f} s to the next step ({min(seconds):.1f} to {max(seconds):.1f})"
            terminalreporter.write_line(f"{fault}: {len(seconds)} x, {spread}")


@pytest.fixture(scope="session")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> RunningJob:
    """Return a finished pretraining of two workers that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return RunningJob(folder, str(folder), f"--data={shards}", *LONG).start().finish()


@pytest.fixture(scope="session")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Return the result of a whole run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    job.run_job(folder, f"--data={shards}", f"--storage={folder}", "--name=demo", "--no-random-baseline")
    return job.result_of(folder / "demo")


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
