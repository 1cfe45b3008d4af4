from pathlib import Path

import numpy as np
import pytest
import sklearn.cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from luss_ray.clustering.groups import Group
from luss_ray.clustering.kmeans import (
    ClusterSums,
    Sample,
    grid_exponent,
    inertias,
    move_centroids,
    normalise_rows,
    round_to_grid,
)
from luss_ray.clustering.nearest import nearest_centroids
from luss_ray.core.errors import UserError


def on_grid(seed: int, n: int = 500, dims: int = 8) -> np.ndarray:
    rows = normalise_rows(np.random.default_rng(seed).normal(size=(n, dims)).astype(np.float32))
    round_to_grid(rows, grid_exponent(n, 1.0))
    return rows


def assign_and_sum(rows: np.ndarray, centroids: np.ndarray) -> ClusterSums:
    """One pass over rows that were in no cluster."""
    everything = np.ones(centroids.shape[:2], bool)
    moved = list(Group([rows]).move(np.arange(len(centroids)), centroids, everything))
    return ClusterSums(np.stack([part.sums for part in moved]), np.stack([part.sizes for part in moved]))


def test_normalisation_equals_the_published_one(golden: Path) -> None:
    stored = np.load(golden / "method" / "cluster.npz")
    for number in (1, 2):
        ours = normalise_rows(stored[f"norm_in{number}"])
        np.testing.assert_allclose(ours, stored[f"norm_out{number}"], rtol=1e-6, atol=1e-7)
    assert normalise_rows(np.zeros((1, 3), np.float16)).tolist() == [[0, 0, 0]]


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 400), st.floats(1e-3, 1e4))
def test_sums_on_the_grid_are_the_same_in_any_order(seed: int, n: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(n, 3)) * scale).astype(np.float32)
    rounded = rows.copy()
    round_to_grid(rounded, grid_exponent(n, float(np.abs(rows).max())))
    np.testing.assert_allclose(rounded, rows, rtol=0, atol=scale * n * 1e-14)
    wide = rounded.astype(np.float64)
    parts = np.array_split(wide[rng.permutation(n)], 3)
    assert (sum(part.sum(axis=0) for part in parts) == wide.sum(axis=0)).all()


def test_grid_keeps_float16_and_large_entries_whole() -> None:
    rows = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float16).astype(np.float32)
    rounded = rows.copy()
    round_to_grid(rounded, grid_exponent(1_300_000, 8.0))
    np.testing.assert_array_equal(rounded, rows)


def test_sums_sizes_and_inertia_of_several_restarts() -> None:
    rows, centroids = on_grid(0), np.stack([on_grid(seed, 5) for seed in (1, 2, 3)])
    part = assign_and_sum(rows, centroids)
    distances = ((rows[None, :, None].astype(float) - centroids[:, None]) ** 2).sum(axis=3)
    nearest = distances.argmin(axis=2)
    for restart, cluster in np.ndindex(3, 5):
        members = rows[nearest[restart] == cluster].astype(np.float64)
        assert part.sizes[restart, cluster] == len(members)
        np.testing.assert_array_equal(part.sums[restart, cluster], members.sum(axis=0))
    squared_norm = float((rows.astype(np.float64) ** 2).sum())
    np.testing.assert_allclose(inertias(part, centroids, squared_norm), distances.min(axis=2).sum(axis=1), rtol=1e-9)


def test_parts_add_up_to_the_whole() -> None:
    rows, centroids = on_grid(0), on_grid(1, 5)[None]
    whole, halves = assign_and_sum(rows, centroids), assign_and_sum(rows[300:], centroids)
    halves += assign_and_sum(rows[:300], centroids)
    np.testing.assert_array_equal(halves.sums, whole.sums)
    np.testing.assert_array_equal(halves.sizes, whole.sizes)


def test_moving_lowers_the_inertia() -> None:
    rows, centroids = on_grid(0), on_grid(1, 6)[None]
    squared_norm, last = float((rows.astype(np.float64) ** 2).sum()), np.inf
    for _ in range(5):
        part = assign_and_sum(rows, centroids)
        (inertia,) = inertias(part, centroids, squared_norm)
        assert inertia <= last
        last, (centroids, num_empty) = inertia, move_centroids(part, centroids)
        assert num_empty.tolist() == [0]


def test_empty_clusters_split_the_largest() -> None:
    rows = on_grid(0)
    centroids = np.full((1, 4, 8), 9, np.float32)
    centroids[0, 0], centroids[0, 1] = rows[0], 0
    part = assign_and_sum(rows, centroids)
    moved, num_empty = move_centroids(part, centroids)
    assert num_empty.tolist() == [2]
    assert np.abs(moved).max() < 2, "the far centroids have come home"
    assert len(np.unique(moved[0], axis=0)) == 4
    assert (assign_and_sum(rows, moved).sizes > 0).sum() >= 3
    again, _ = move_centroids(part, centroids)
    np.testing.assert_array_equal(moved, again)


@pytest.mark.parametrize("products_at_once", [16_384, 10])
def test_start_draws_rows_far_apart(products_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luss_ray.clustering.kmeans._MOST_SAMPLED", products_at_once)
    centres = 10 * np.eye(6, dtype=np.float32)
    rows = np.repeat(centres, 50, axis=0) + np.random.default_rng(0).normal(0, 0.01, (300, 6)).astype(np.float32)
    for seed in range(5):
        start = Sample(rows).plus_plus(np.random.default_rng(seed).random((6, 3)))
        assert sorted(nearest_centroids(start, centres[None]).clusters[0]) == [0, 1, 2, 3, 4, 5]
        assert all((rows == row).all(axis=1).any() for row in start)


def test_starts_are_no_worse_than_those_of_scikit_learn() -> None:
    rows = normalise_rows(np.random.default_rng(0).standard_normal((2000, 16), np.float32))

    def inertia(start: np.ndarray) -> float:
        return float(((rows[:, None] - start) ** 2).sum(axis=2).min(axis=1).sum())

    draws = np.random.default_rng(1).random((20, 40, 5))
    ours = [inertia(Sample(rows).plus_plus(part)) for part in draws]
    theirs = [inertia(sklearn.cluster.kmeans_plusplus(rows, 40, random_state=seed)[0]) for seed in range(20)]
    assert np.mean(ours) < np.mean(theirs) + np.std(theirs)
    random_rows = [inertia(rows[np.random.default_rng(seed).choice(2000, 40, replace=False)]) for seed in range(20)]
    assert np.mean(ours) < np.mean(random_rows) - np.std(random_rows)


def test_start_with_fewer_distinct_rows_than_clusters() -> None:
    sample = Sample(np.repeat(np.eye(2, dtype=np.float32), 5, axis=0))
    start = sample.plus_plus(np.array([[0.0], [0.5], [0.99], [0.3]]))
    assert len(np.unique(start, axis=0)) == 2
    with pytest.raises(UserError, match="as many images as clusters"):
        sample.plus_plus(np.zeros((11, 1)))
