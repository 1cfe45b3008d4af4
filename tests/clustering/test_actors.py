"""Clustering on a real Ray cluster: the number of actors and their deaths leave no trace in the result."""

import os
import signal

import numpy as np
import pyarrow as pa
import pytest
import ray

from luss_ray.clustering import actors
from luss_ray.clustering.actors import DistributedKMeans, KMeansResult
from luss_ray.clustering.features import FeatureFiles, feature_table
from luss_ray.core.errors import UserError
from luss_ray.metrics.neighbours import clustering_accuracy
from luss_ray.storage.uri import Location

FILE_ROWS = (70, 0, 131, 64, 5, 230)
FILES = [f"{number:06d}.parquet" for number in range(len(FILE_ROWS))]
NUM_CLUSTERS, DIMS = 8, 16


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, NUM_CLUSTERS, sum(FILE_ROWS))


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray) -> FeatureFiles:
    """Feature files of uneven sizes, one of them empty; clusters that overlap a little."""
    location = Location.parse(str(tmp_path_factory.mktemp("features")))
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(NUM_CLUSTERS, DIMS))
    rows = (centres[labels] + rng.normal(0, 0.45, (len(labels), DIMS))).astype(np.float16)
    for name, part in zip(FILES, np.split(rows, np.cumsum(FILE_ROWS)[:-1]), strict=True):
        write(location, name, part)
    return FeatureFiles(location)


def write(location: Location, name: str, rows: np.ndarray) -> None:
    keys = [f"{number}" for number in range(len(rows))]
    location.create_table(name, feature_table(keys, rows, np.ones(len(rows), bool), inputs="", metadata={}))


class Other:
    """An actor of another job."""


def fit(
    loader: FeatureFiles, num_actors: int, disturb=None, *, memory_bytes=None, num_cpus=0.5, **options
) -> KMeansResult:
    given = {"num_actors": num_actors, "num_cpus": num_cpus, "memory_bytes": memory_bytes}
    with DistributedKMeans(loader, FILES, **given) as clustering:

        def callback(iteration: int, inertias: list[float]) -> None:
            if disturb is not None:
                disturb(iteration, clustering.actors)

        settings = {"restarts": 10, "iterations": 8, "seed": 0, "sample_rows": 200} | options
        return clustering.fit(NUM_CLUSTERS, callback=callback, **settings)


@pytest.fixture(scope="module")
def reference(ray_cluster: None, loader: FeatureFiles) -> KMeansResult:
    return fit(loader, 1)


def assert_same(result: KMeansResult, expected: KMeansResult) -> None:
    np.testing.assert_array_equal(result.centroids, expected.centroids)
    assert result.history == expected.history
    assert (result.inertia, result.restart, result.num_rows) == (expected.inertia, expected.restart, sum(FILE_ROWS))


@pytest.mark.parametrize("num_actors", [2, 5])
def test_any_number_of_actors_gives_the_same_bits(
    reference: KMeansResult, loader: FeatureFiles, num_actors: int
) -> None:
    assert_same(fit(loader, num_actors), reference)


def test_rows_on_disk_give_the_same_bits(reference: KMeansResult, loader: FeatureFiles) -> None:
    assert_same(fit(loader, 2, memory_bytes=5000), reference)


def test_hopeless_restarts_are_dropped_and_named(reference: KMeansResult, loader: FeatureFiles) -> None:
    found = fit(loader, 2, drop_hopeless=True)
    np.testing.assert_array_equal(found.centroids, reference.centroids)
    assert any(at is not None for at in found.dropped_at) and found.dropped_at[found.restart] is None
    assert reference.dropped_at == [None] * 10
    for restart, at in enumerate(found.dropped_at):
        if at is not None:
            history = [row[restart] for row in found.history]
            assert history[at:] == [history[at]] * (len(history) - at)
            assert history[at] - (8 - at) * (history[at - 1] - history[at]) > min(found.history[at - 1])
    assert_same(fit(loader, 5, drop_hopeless=True, memory_bytes=5000), found)


@pytest.fixture
def third_of_the_cluster(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> float:
    """Return CPUs of an actor of which the cluster has room for two; the patience with a third is ten seconds."""
    monkeypatch.setattr(actors, "_PATIENCE_S", 10.0)
    monkeypatch.setattr(actors, "_LOOK_EVERY_S", 0.1)
    return 0.4 * ray.cluster_resources()["CPU"]


def test_rows_of_actors_without_a_place_are_taken_over(
    reference: KMeansResult, loader: FeatureFiles, third_of_the_cluster: float, caplog: pytest.LogCaptureFixture
) -> None:
    assert_same(fit(loader, 3, num_cpus=third_of_the_cluster), reference)
    assert "2 actors have a place of 3" in caplog.text


@pytest.mark.chaos
def test_an_actor_whose_place_is_taken_by_another_job_leaves_no_trace(
    reference: KMeansResult, loader: FeatureFiles, third_of_the_cluster: float, caplog: pytest.LogCaptureFixture
) -> None:
    others = ray.remote(Other).options(num_cpus=third_of_the_cluster)
    waiting, disturbed = [], []

    def disturb(iteration: int, actors: list) -> None:
        if iteration == 1 and not waiting:
            waiting.append(others.remote())
            os.kill(ray.get(actors[0].__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        if iteration == 3:
            disturbed.append(len(actors))

    try:
        assert_same(fit(loader, 2, disturb, num_cpus=third_of_the_cluster), reference)
    finally:
        ray.kill(waiting[0])
    assert disturbed == [1] and "1 actors have a place of 2" in caplog.text


@pytest.mark.chaos
def test_killed_actors_leave_no_trace(reference: KMeansResult, loader: FeatureFiles) -> None:
    pids = []

    def disturb(iteration: int, actors: list) -> None:
        if iteration == 1:
            pids.append(ray.get(actors[0].__ray_call__.remote(lambda _: os.getpid())))
            os.kill(pids[0], signal.SIGKILL)
        if iteration == 3:
            ray.kill(actors[1], no_restart=False)
            pids.append(ray.get(actors[0].__ray_call__.remote(lambda _: os.getpid())))

    assert_same(fit(loader, 2, disturb), reference)
    assert len(set(pids)) == 2, "the first actor was restarted"


def test_clusters_are_found(reference: KMeansResult, loader: FeatureFiles, labels: np.ndarray) -> None:
    rows = np.concatenate([loader(name) for name in FILES]).astype(np.float64)
    distances = ((rows[:, None] - reference.centroids) ** 2).sum(axis=2)
    assert clustering_accuracy(distances.argmin(axis=1), labels) > 90
    assert reference.inertia == pytest.approx(distances.min(axis=1).sum(), rel=1e-6)
    true_inertia = sum(len(own) * own.var(axis=0).sum() for own in (rows[labels == k] for k in range(NUM_CLUSTERS)))
    assert reference.inertia <= true_inertia * (1 + 1e-9), "no worse than the clusters that the rows were drawn from"
    assert reference.inertia == min(reference.history[-1]) == reference.history[-1][reference.restart]
    assert (np.diff(reference.history, axis=0) <= 0).all()


def test_iterations_are_lloyds(ray_cluster: None, loader: FeatureFiles) -> None:
    """The same start, iterated here in plain NumPy over all rows, ends in the same place."""
    centroids = fit(loader, 2, restarts=1, iterations=0).centroids.astype(np.float64)
    rows = np.concatenate([loader(name) for name in FILES]).astype(np.float64)
    assert all(np.isclose(rows, centroid, atol=1e-6).all(axis=1).any() for centroid in centroids)
    for _ in range(4):
        nearest = ((rows[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
        centroids = np.stack([rows[nearest == cluster].mean(axis=0) for cluster in range(NUM_CLUSTERS)])
    np.testing.assert_allclose(fit(loader, 2, restarts=1, iterations=4).centroids, centroids, atol=1e-5)


def test_seed_and_tolerance(reference: KMeansResult, loader: FeatureFiles) -> None:
    with DistributedKMeans(loader, FILES, num_actors=2, num_cpus=0.5) as clustering:
        loose = clustering.fit(NUM_CLUSTERS, seed=1, restarts=2, iterations=30, sample_rows=200, tolerance=0.5)
        full = clustering.fit(NUM_CLUSTERS, seed=1, restarts=2, iterations=30, sample_rows=200)
        assert len(loose.history) < len(full.history) < 31
        assert loose.history[0] == full.history[0] != reference.history[0][:2]
        assert full.inertia <= loose.inertia
        everything = clustering.fit(sum(FILE_ROWS), restarts=1, iterations=3)
        assert everything.inertia == pytest.approx(0, abs=1e-4)
        with pytest.raises(UserError, match="501 clusters of 500 features"):
            clustering.fit(501)


def test_files_that_do_not_fit_together_are_named(ray_cluster: None, loader: FeatureFiles) -> None:
    write(loader.location, "wide.parquet", np.ones((1, 9), np.float32))
    with (
        pytest.raises(UserError, match=r"wide\.parquet has another feature dimension"),
        DistributedKMeans(loader, [FILES[0], "wide.parquet"], num_cpus=0.5),
    ):
        pass
    with pytest.raises(UserError, match="hold no row"), DistributedKMeans(loader, [FILES[1]], num_cpus=0.5):
        pass
    with pytest.raises(UserError, match="no feature file"), DistributedKMeans(loader, []):
        pass


def test_an_actors_user_error_stays_one_line(ray_cluster: None, loader: FeatureFiles) -> None:
    loader.location.create_table("bare.parquet", pa.table({"key": ["a"]}))
    with pytest.raises(UserError) as caught, DistributedKMeans(loader, ["bare.parquet"], num_cpus=0.5):
        pass
    assert type(caught.value) is UserError and "\n" not in str(caught.value)
    assert "bare.parquet is no feature file" in str(caught.value)
