"""The arithmetic of exact Lloyd k-means, arranged so that sums are the same in any order and on any machine."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from scipy.sparse import csr_array

from luss_ray.core.errors import UserError

ROWS_AT_ONCE = 8192
SPLIT = 1 / 1024


def normalise_rows(rows: Float[np.ndarray, "n C"]) -> Float32[np.ndarray, "n C"]:
    """Return the rows divided by their Euclidean norm (plus 1e-8, so a row of zeros stays), float32.

    Args:
        rows: features, any float type.
    """
    wide = rows.astype(np.float32, copy=False)
    return wide / (np.linalg.norm(wide, axis=1, keepdims=True) + np.float32(1e-8))


def grid_exponent(num_rows: int, largest: float) -> int:
    """Return e such that sums of `num_rows` multiples of 2^e, none above `largest`, are exact in float64.

    Rows rounded to this grid can be summed in any order, split over any number of actors, with bitwise equal results.
    For a million unit vectors e is -32, far below float32's own rounding of a distance.

    Args:
        num_rows: at least 1.
        largest: largest absolute value of an entry.
    """
    return int(np.ceil(np.log2(max(largest, 1e-30)))) + int(num_rows).bit_length() - 52


def round_to_grid(rows: Float32[np.ndarray, "n C"], exponent: int) -> Float32[np.ndarray, "n C"]:
    """Return the rows rounded to multiples of 2^exponent; entries already coarser than that keep every bit.

    Args:
        rows: finite.
        exponent: of `grid_exponent`.
    """
    out = np.empty_like(rows)
    for block, rounded in zip(_blocks(rows), _blocks(out), strict=True):
        rounded[:] = np.ldexp(np.rint(np.ldexp(block.astype(np.float64), -exponent)), exponent)
    return out


@dataclass
class ClusterSums:
    """What one pass over rows gives for R restarts of k centroids; `+=` adds another part's, exactly."""

    sums: Float64[np.ndarray, "R k C"]
    """Sum of the rows nearest to each centroid."""
    sizes: Int64[np.ndarray, "R k"]
    """Number of them."""

    def __iadd__(self, other: "ClusterSums") -> "ClusterSums":
        self.sums += other.sums
        self.sizes += other.sizes
        return self


def nearest_centroids(
    rows: Float32[np.ndarray, "n C"], centroids: Float32[np.ndarray, "k C"], *, gpu: bool = False
) -> Int64[np.ndarray, " n"]:
    """Return the number of the centroid nearest to each row (Euclidean), by exact search.

    Args:
        rows: C-contiguous.
        centroids: C-contiguous.
        gpu: search on the GPU; needs the GPU build of faiss.
    """
    parts = [np.zeros(0, np.int64)]
    for block in _blocks(rows):
        _, nearest = faiss.knn_gpu(_gpu_resources(), block, centroids, 1) if gpu else faiss.knn(block, centroids, 1)
        parts.append(nearest[:, 0].astype(np.int64))
    return np.concatenate(parts)


def _blocks(rows: Float32[np.ndarray, "n C"]) -> Iterator[Float32[np.ndarray, "b C"]]:
    """Blocks of fixed size from the first row on, so that a row meets the same arithmetic whatever the rest."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]


@functools.cache
def _gpu_resources() -> "faiss.StandardGpuResources":
    return faiss.StandardGpuResources()


def assign_and_sum(
    rows: Float32[np.ndarray, "n C"], centroids: Float32[np.ndarray, "R k C"], *, gpu: bool = False
) -> ClusterSums:
    """Return sums and sizes of the clusters of R sets of centroids, in one pass over the rows.

    Args:
        rows: on the grid of `round_to_grid`.
        centroids: R restarts of k centroids.
        gpu: search on the GPU.
    """
    num_restarts, k, _ = centroids.shape
    total = ClusterSums(np.zeros(centroids.shape), np.zeros((num_restarts, k), np.int64))
    for block in _blocks(rows):
        wide = block.astype(np.float64)
        columns, ones = np.arange(len(block)), np.ones(len(block))
        for restart in range(num_restarts):
            nearest = nearest_centroids(block, centroids[restart], gpu=gpu)
            total.sizes[restart] += np.bincount(nearest, minlength=k)
            total.sums[restart] += csr_array((ones, (nearest, columns)), shape=(k, len(block))) @ wide
    return total


def inertias(
    part: ClusterSums, centroids: Float32[np.ndarray, "R k C"], squared_norm: float
) -> Float64[np.ndarray, " R"]:
    """Return each restart's sum of squared distances to the nearest centroid, from the sums alone.

    Args:
        part: of all rows.
        centroids: those that the rows were assigned to.
        squared_norm: sum of all rows' squared norms.
    """
    wide = centroids.astype(np.float64)
    crossed = np.einsum("rkc,rkc->r", wide, part.sums)
    return np.maximum(squared_norm - 2 * crossed + np.einsum("rk,rkc,rkc->r", part.sizes, wide, wide), 0)


def move_centroids(
    part: ClusterSums, centroids: Float32[np.ndarray, "R k C"]
) -> tuple[Float32[np.ndarray, "R k C"], Int64[np.ndarray, " R"]]:
    """Return the clusters' means and how many clusters of each restart were empty.

    An empty cluster takes half of the largest one (the first on a tie): both get its mean, one scaled by 1 + 1/1024
    and the other by 1 - 1/1024, entries alternating.

    Args:
        part: of all rows.
        centroids: those that the rows were assigned to.
    """
    sizes = part.sizes.copy()
    means = (part.sums / np.maximum(sizes, 1)[..., None]).astype(np.float32)
    moved = np.where(sizes[..., None] > 0, means, centroids)
    signs = np.where(np.arange(centroids.shape[-1]) % 2, -1, 1) * SPLIT
    for restart, empty in zip(*np.nonzero(part.sizes == 0), strict=True):
        largest = sizes[restart].argmax()
        centre = moved[restart, largest].copy()
        moved[restart, empty], moved[restart, largest] = centre * (1 + signs), centre * (1 - signs)
        sizes[restart, empty] = sizes[restart, largest] // 2
        sizes[restart, largest] -= sizes[restart, empty]
    return moved, (part.sizes == 0).sum(axis=1)


def plus_plus(rows: Float32[np.ndarray, "n C"], k: int, draws: Float64[np.ndarray, " k"]) -> Float32[np.ndarray, "k C"]:
    """Return k of the rows as a start, each drawn with a chance proportional to its squared distance to those before.

    Args:
        rows: sample of the data, at least k rows.
        k: at least 1.
        draws: in [0, 1), one a centroid. Once every row is a centroid the rest are drawn evenly.

    Raises:
        UserError: fewer rows than centroids.

    Source: Arthur & Vassilvitskii, "k-means++", SODA 2007.
    """
    if len(rows) < k:
        raise UserError(f"{len(rows)} features can't start {k} clusters: give at least as many images as clusters")
    norms = np.einsum("nc,nc->n", rows, rows)
    closest = np.ones(len(rows))
    chosen = np.empty(k, np.int64)
    for number, draw in enumerate(draws):
        weights = np.cumsum(closest if closest.any() else np.ones(len(rows)))
        chosen[number] = np.searchsorted(weights, draw * weights[-1], side="right").clip(0, len(rows) - 1)
        centre = rows[chosen[number]]
        distance = np.maximum(norms + centre @ centre - 2 * (rows @ centre), 0).astype(np.float64)
        distance[distance <= 1e-6 * norms] = 0
        closest = distance if number == 0 else np.minimum(closest, distance)
    return rows[chosen]
