import numpy as np
import pytest

from luss_ray.clustering.kmeans import assign_and_sum, round_to_grid
from luss_ray.clustering.rows import FeatureRows

EXPONENT = -40


@pytest.fixture
def files() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(n, 6)).astype(np.float32) for name, n in (("a", 40), ("empty", 0), ("b", 25))}


def actor(files: dict[str, np.ndarray]) -> FeatureRows:
    return FeatureRows(files.__getitem__, list(files), 1, False)


def test_answers_are_those_of_all_files_in_order(files: dict[str, np.ndarray]) -> None:
    held, centroids = actor(files), np.eye(4, 6, dtype=np.float32)
    whole = round_to_grid(np.concatenate(list(files.values())), EXPONENT)
    assert [(rows, width) for rows, width, _ in held.describe()] == [(40, 6), (0, 6), (25, 6)]
    assert max(largest for _, _, largest in held.describe()) == np.abs(whole).max()
    assert sum(held.squared_norms(EXPONENT)) == pytest.approx((whole.astype(np.float64) ** 2).sum())
    expected = assign_and_sum(whole, centroids[None])
    step = held.step(EXPONENT, centroids[None])
    np.testing.assert_array_equal(step.sums, expected.sums)
    np.testing.assert_array_equal(step.sizes, expected.sizes)
    assigned = np.concatenate(held.assign(EXPONENT, centroids))
    np.testing.assert_array_equal(np.bincount(assigned, minlength=4), expected.sizes[0])


def test_answers_do_not_depend_on_what_was_asked_before(files: dict[str, np.ndarray]) -> None:
    """What a restart relies on."""
    fresh, used, centroids = actor(files), actor(files), np.eye(4, 6, dtype=np.float32)[None]
    used.describe()
    used.squared_norms(EXPONENT)
    used.step(EXPONENT, centroids[:, ::-1].copy())
    first, second = fresh.step(EXPONENT, centroids), used.step(EXPONENT, centroids)
    np.testing.assert_array_equal(first.sums, second.sums)
    np.testing.assert_array_equal(first.sizes, second.sizes)


def test_files_are_loaded_once_and_only_when_asked(files: dict[str, np.ndarray]) -> None:
    loaded = []

    def load(name: str) -> np.ndarray:
        loaded.append(name)
        return files[name]

    held = FeatureRows(load, list(files), 1, False)
    assert loaded == []
    held.describe()
    held.take(EXPONENT, [np.array([3, 1]), np.zeros(0, int), np.array([24])])
    assert loaded == ["a", "empty", "b"]


def test_taken_rows_and_starts(files: dict[str, np.ndarray]) -> None:
    held = actor(files)
    taken = held.take(EXPONENT, [np.array([3, 1]), np.zeros(0, int), np.array([24])])
    np.testing.assert_allclose(np.concatenate(taken), np.stack([files["a"][3], files["a"][1], files["b"][24]]))
    starts = held.start(files["a"], 5, [np.full(5, 0.2), np.full(5, 0.7)])
    assert [start.shape for start in starts] == [(5, 6), (5, 6)] and not (starts[0] == starts[1]).all()
