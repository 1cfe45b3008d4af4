from fractions import Fraction

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luss_ray.clustering.groups import DeviceGroup, Group
from luss_ray.clustering.kmeans import ClusterSums, grid_exponent, normalise_rows, round_to_grid
from luss_ray.clustering.nearest import decide, largest_norm, nearest_centroids, rounding


def on_grid(seed: int, n: int = 500, dims: int = 8) -> np.ndarray:
    rows = normalise_rows(np.random.default_rng(seed).normal(size=(n, dims)).astype(np.float32))
    round_to_grid(rows, grid_exponent(n, 1.0))
    return rows


@pytest.mark.parametrize("height, tile_columns", [(2048, 4096), (64, 14), (7, 1)])
def test_nearest_is_the_nearest_across_tiles(height: int, tile_columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luss_ray.clustering.nearest.tile_rows", lambda _: height)
    monkeypatch.setattr("luss_ray.clustering.nearest.TILE_COLUMNS", tile_columns)
    rows, centroids = on_grid(0), np.stack([on_grid(seed, 7) for seed in (1, 2, 3)])
    wide = centroids.astype(float)
    scores = np.sort(rows.astype(float) @ wide.transpose(0, 2, 1) - (wide**2).sum(axis=2)[:, None] / 2, axis=2)
    distances = ((rows[None, :, None].astype(float) - centroids[:, None]) ** 2).sum(axis=3)
    found = nearest_centroids(rows, centroids)
    np.testing.assert_array_equal(found.clusters, distances.argmin(axis=2))
    np.testing.assert_allclose(found.scores, scores[..., -1], atol=1e-6)
    np.testing.assert_allclose(found.leads, scores[..., -1] - scores[..., -2], atol=1e-6)
    _, by_faiss = faiss.knn(rows, centroids[1], 1)
    np.testing.assert_array_equal(found.clusters[1], by_faiss[:, 0])
    assert nearest_centroids(rows[:0], centroids).clusters.shape == (3, 0)
    assert np.isinf(nearest_centroids(rows, centroids[:, :1]).leads).all()


def test_what_float32_can_not_tell_is_decided_exactly() -> None:
    """Centroids closer to one another than float32 can see, beside exact rational arithmetic."""
    rows, centre = on_grid(1, 40, 64), on_grid(2, 1, 64)[0]
    centroids = np.repeat(centre[None], 8, axis=0)
    centroids[np.arange(6), np.arange(6)] = np.nextafter(centre[:6], np.float32(2))
    clusters, scores = decide(rows, centroids, rounding(64, largest_norm(rows), largest_norm(centroids)))
    exact = [[Fraction(float(value)) for value in centroid] for centroid in centroids]
    for row, cluster, score in zip(rows, clusters, scores, strict=True):
        products = [
            sum(Fraction(float(x)) * c for x, c in zip(row, centroid, strict=True)) - sum(c * c for c in centroid) / 2
            for centroid in exact
        ]
        assert products.index(max(products)) == cluster
        assert score == pytest.approx(float(max(products)), rel=1e-6)


def change(centroids: np.ndarray, changed: np.ndarray, rng: np.random.Generator) -> None:
    """Change some centroids: to new ones, or to others of their set, exactly or as good as."""
    for restart, number in zip(*np.nonzero(changed), strict=True):
        new = normalise_rows(rng.normal(size=(1, centroids.shape[2])).astype(np.float32))[0]
        twin = centroids[restart, rng.integers(len(centroids[restart]))]
        nudged = twin + np.float32(1e-7) * rng.integers(-1, 2, len(twin)).astype(np.float32)
        centroids[restart, number] = (new, twin, nudged)[rng.integers(3)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=5),
    st.integers(0, 10_000),
    st.booleans(),
    st.sampled_from([0.0, 0.2, 0.8, 1.0]),
)
def test_rows_that_move_add_up_to_the_sums_of_all(sizes: list[int], seed: int, on_device: bool, share: float) -> None:
    """Pass after pass, whatever centroids change, only some rows are looked at and only changes are added: bit by bit
    the same as working all out anew; with centroids that float32 can't tell apart, and on a device of torch too."""
    rng, k, dims = np.random.default_rng(seed), 12, 8
    rows = on_grid(seed, sum(sizes), dims)
    pieces = np.split(rows, np.cumsum(sizes)[:-1])
    group = DeviceGroup(pieces, "cpu") if on_device else Group(pieces)
    total, centroids = ClusterSums.zeros(3, k, dims), np.zeros((3, k, dims), np.float32)
    for number, restarts in enumerate(([0, 1, 2], [0, 2], [2], [2])):
        changed = np.ones((3, k), bool) if number == 0 else rng.random((3, k)) < share
        change(centroids, changed, rng)
        for restart, moved in zip(
            restarts, group.move(np.array(restarts), centroids[restarts], changed[restarts]), strict=True
        ):
            total.sums[restart] += moved.sums
            total.sizes[restart] += moved.sizes
        anew = Group([rows]).move(np.array(restarts), centroids[restarts], np.ones((len(restarts), k), bool))
        for restart, moved in zip(restarts, anew, strict=True):
            np.testing.assert_array_equal(total.sums[restart], moved.sums)
            np.testing.assert_array_equal(total.sizes[restart], moved.sizes)
        assert (total.sizes[restarts].sum(axis=1) == len(rows)).all()
