import ctypes
from pathlib import Path

import numpy as np
import pytest

from luss_ray.clustering import rows
from luss_ray.clustering.groups import DeviceGroup
from luss_ray.clustering.kmeans import ClusterSums, round_to_grid
from luss_ray.clustering.nearest import nearest_centroids
from luss_ray.clustering.rows import FeatureRows

EXPONENT = -40


@pytest.fixture
def files() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(n, 6)).astype(np.float32) for name, n in (("a", 40), ("empty", 0), ("b", 25))}


def actor(files: dict[str, np.ndarray], memory_bytes: int = 10**9) -> FeatureRows:
    return FeatureRows(lambda name: files[name].copy(), list(files), 1, memory_bytes)


def step(held: FeatureRows, centroids: np.ndarray, fit: int = 0) -> ClusterSums:
    return held.step(EXPONENT, fit, np.arange(len(centroids)), centroids)


@pytest.mark.parametrize("memory_bytes", [10**9, 1000, 0])
def test_answers_are_those_of_all_files_in_order(files: dict[str, np.ndarray], memory_bytes: int) -> None:
    """However many of the rows lie on disk."""
    held, centroids = actor(files, memory_bytes), np.eye(4, 6, dtype=np.float32)
    whole = np.concatenate(list(files.values()))
    assert [(rows, width) for rows, width, _ in held.describe()] == [(40, 6), (0, 6), (25, 6)]
    assert max(largest for _, _, largest in held.describe()) == np.abs(whole).max()
    round_to_grid(whole, EXPONENT)
    assert sum(held.squared_norms(EXPONENT)) == pytest.approx((whole.astype(np.float64) ** 2).sum())
    nearest = nearest_centroids(whole, centroids[None]).clusters[0]
    found = step(held, centroids[None])
    for cluster in range(4):
        members = whole[nearest == cluster].astype(np.float64)
        np.testing.assert_array_equal(found.sums[0, cluster], members.sum(axis=0))
        assert found.sizes[0, cluster] == len(members)


def test_answers_do_not_depend_on_what_was_asked_before(files: dict[str, np.ndarray]) -> None:
    """What a restart relies on."""
    fresh, used, centroids = actor(files), actor(files), np.eye(4, 6, dtype=np.float32)[None]
    used.describe()
    used.squared_norms(EXPONENT)
    step(used, np.eye(3, 6, dtype=np.float32)[None], fit=0)
    step(used, centroids[:, ::-1].copy(), fit=1)
    first, second = step(fresh, centroids, fit=1), step(used, centroids, fit=1)
    np.testing.assert_array_equal(first.sums, second.sums)
    np.testing.assert_array_equal(first.sizes, second.sizes)


def test_rows_beyond_a_gpus_memory_are_worked_on_by_a_cpu(
    files: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's CPU stands in for the GPU, which has room for every other group."""
    on_device: list[bool] = []
    monkeypatch.setitem(rows._GROUP_ROWS, "cuda", 10)
    monkeypatch.setattr(rows, "fits", lambda *_: on_device.append(len(on_device) % 2 == 0) or on_device[-1])
    monkeypatch.setattr(rows, "DeviceGroup", lambda pieces, _: DeviceGroup(pieces, "cpu"))
    held = FeatureRows(lambda name: files[name].copy(), list(files), 1, 10**9, "cuda")
    centroids = np.eye(4, 6, dtype=np.float32)[None]
    found, expected = step(held, centroids), step(actor(files), centroids)
    assert len(on_device) == 7 and any(on_device) and not all(on_device)
    np.testing.assert_array_equal(found.sums, expected.sums)
    np.testing.assert_array_equal(found.sizes, expected.sizes)


def test_rows_beyond_the_budget_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """192 MiB of rows with a budget of 16 MiB; what the process holds of its own is measured in every pass."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files, megabyte = [f"{number}" for number in range(24)], 1 << 20

    def load(name: str) -> np.ndarray:
        return np.random.default_rng(int(name)).standard_normal((8192, 256), np.float32)

    held = FeatureRows(load, files, 1, 16 * megabyte)
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests have left would be used again unseen
    whole, small = FeatureRows(load, files, 1, 10**12), anonymous_bytes()
    held.describe()
    centroids = np.random.default_rng(100).standard_normal((1, 20, 256), np.float32)
    for _ in range(2):
        found = step(held, centroids)
        assert anonymous_bytes() - small < 100 * megabyte
    expected = step(whole, centroids)
    assert anonymous_bytes() - small > 192 * megabyte, "the measure sees rows in memory"
    np.testing.assert_array_equal(found.sums, expected.sums)
    assert not list(tmp_path.iterdir()), "the scratch file has no name that could be left behind"


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_files_are_loaded_once_and_only_when_asked(files: dict[str, np.ndarray]) -> None:
    loaded = []

    def load(name: str) -> np.ndarray:
        loaded.append(name)
        return files[name].copy()

    held = FeatureRows(load, list(files), 1, 10**9)
    assert loaded == []
    held.describe()
    held.take(EXPONENT, [np.array([3, 1]), np.zeros(0, int), np.array([24])])
    assert loaded == ["a", "empty", "b"]


def test_taken_rows_and_starts(files: dict[str, np.ndarray]) -> None:
    held = actor(files)
    taken = held.take(EXPONENT, [np.array([3, 1]), np.zeros(0, int), np.array([24])])
    np.testing.assert_allclose(np.concatenate(taken), np.stack([files["a"][3], files["a"][1], files["b"][24]]))
    starts = held.start(files["a"], [np.full((5, 2), 0.2), np.full((5, 2), 0.7)])
    assert [start.shape for start in starts] == [(5, 6), (5, 6)] and not (starts[0] == starts[1]).all()
