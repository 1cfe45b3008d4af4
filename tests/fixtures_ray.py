"""One Ray cluster for the whole test run: starting one takes 10 to 40 s."""

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "",  # otherwise every worker process compiles all its imports again
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start Ray with more logical CPUs than the machine has, or use the cluster that this process has joined."""
    import ray

    if ray.is_initialized():
        yield
        return
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    ray.init(
        address="local",
        num_cpus=6,
        include_dashboard=False,
        object_store_memory=100_000_000,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def start_cluster() -> Iterator[Callable[[dict[str, str]], str]]:
    """Return a function that starts a cluster of its own with 4 CPUs, whose processes have this environment.

    It returns the cluster's address.
    """
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 4, "object_store_memory": 200_000_000}
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:

        def start(environment: dict[str, str]) -> str:
            for name, value in {**ENVIRONMENT, **environment}.items():
                patch.setenv(name, value)
            cluster = Cluster(initialize_head=True, head_node_args=head, connect=False)
            stack.callback(cluster.shutdown)
            return cluster.address

        yield start
