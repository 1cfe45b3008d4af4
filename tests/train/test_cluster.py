import pytest
import ray
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luss_ray.core.errors import UserError
from luss_ray.train import cluster


@pytest.fixture
def in_cluster(monkeypatch: pytest.MonkeyPatch):
    """Return a function that sets what the joined cluster has."""
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")

    def has(cpus: int, gpus: int = 0, possible: dict[str, int] | None = None) -> None:
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(cpus), "GPU": float(gpus)})
        monkeypatch.setattr(cluster.state, "get_max_resources_from_cluster_config", lambda: possible)

    return has


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 200), st.integers(1, 20))
def test_trainers_and_loaders_fit_into_the_cluster_together(in_cluster, cpus: int, num_workers: int) -> None:
    in_cluster(cpus)
    taken = cluster.resources((1, num_workers))
    assert taken.num_loaders >= 1 and taken.num_workers == (1, num_workers)
    if cpus >= num_workers:
        assert num_workers * (1 + taken.num_loaders * taken.loader_cpus) <= cpus


def test_every_gpu_has_a_worker_and_its_share_of_the_cpus(in_cluster) -> None:
    in_cluster(128, gpus=8)
    taken = cluster.resources(None)
    assert taken.use_gpu and taken.num_workers == (8, 8) and taken.num_loaders == 14 and taken.num_actors == 8


@pytest.mark.parametrize("num_workers", [None, (4, 16)])
def test_a_cluster_at_rest_is_not_taken_for_one_without_gpus(in_cluster, num_workers: tuple[int, int] | None) -> None:
    in_cluster(0)
    with pytest.raises(UserError, match=r"infra/on_gpus\.py NUM_GPUS"):
        cluster.resources(num_workers)


def test_a_cluster_whose_gpus_are_not_there_yet_is_not_taken_for_one_without(in_cluster, monkeypatch) -> None:
    in_cluster(16, possible={"CPU": 512, "GPU": 32})
    with pytest.raises(UserError, match=r"can have GPUs but has none now.*infra/on_gpus\.py NUM_GPUS"):
        cluster.resources(None)
    monkeypatch.setenv(cluster.ON_CPUS, "1")
    assert not cluster.resources(None).use_gpu
    monkeypatch.delenv(cluster.ON_CPUS)
    in_cluster(16, gpus=8, possible={"CPU": 512, "GPU": 32})
    assert cluster.resources(None).use_gpu
    in_cluster(16, possible={"CPU": 512})
    assert not cluster.resources(None).use_gpu


@pytest.mark.parametrize("gpu", [False, True])
def test_loaders_of_a_gpu_have_room_for_their_batches(gpu: bool, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """With 1 GiB fourteen loaders of 160 px crops waited for each other, and the GPU for them."""
    asked = {}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("ENABLE_PREEMPTION_WATCHER", "HEALTH_CHECK_INTERVAL_S"):
        monkeypatch.setenv(f"RAY_TRAIN_{name}", "0")  # which is set where it isn't, and is undone so
    monkeypatch.setattr(cluster, "_send_chatter_to", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **given: asked.update(given))
    cluster.join(tmp_path / "log")
    assert asked["object_store_memory"] == (None if gpu else 1 << 30)
