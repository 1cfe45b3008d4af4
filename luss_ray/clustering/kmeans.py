"""The arithmetic of exact Lloyd k-means, arranged so that sums are the same in any order and on any machine."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32, Int64
from scipy.sparse import csr_array

from luss_ray.core.errors import UserError

_ROUNDED_AT_ONCE = 8192
_MOST_SAMPLED = 16_384
_SPLIT = 1 / 1024


def normalise_rows(rows: Float[np.ndarray, "n C"]) -> Float32[np.ndarray, "n C"]:
    """Return the rows divided by their Euclidean norm (plus 1e-8, so a row of zeros stays), float32.

    Args:
        rows: features, any float type.
    """
    wide = rows.astype(np.float32, copy=False)
    return wide / (np.linalg.norm(wide, axis=1, keepdims=True) + np.float32(1e-8))


def grid_exponent(num_rows: int, largest: float) -> int:
    """Return e such that sums of `num_rows` multiples of 2^e, none above `largest`, are exact in float64.

    Rows rounded to this grid can be added and taken away again in any order, split over any number of actors, with
    bitwise equal results. For a million unit vectors e is -32, far below float32's own rounding of a distance.

    Args:
        num_rows: at least 1.
        largest: largest absolute value of an entry.
    """
    return int(np.ceil(np.log2(max(largest, 1e-30)))) + int(num_rows).bit_length() - 52


def round_to_grid(rows: Float32[np.ndarray, "n C"], exponent: int) -> None:
    """Round the rows, in place, to multiples of 2^exponent; entries already coarser than that keep every bit.

    Args:
        rows: finite.
        exponent: of `grid_exponent`.
    """
    for start in range(0, len(rows), _ROUNDED_AT_ONCE):
        block = rows[start : start + _ROUNDED_AT_ONCE]
        block[:] = np.ldexp(np.rint(np.ldexp(block.astype(np.float64), -exponent)), exponent)


@dataclass
class ClusterSums:
    """What one pass over rows gives for R restarts of k centroids; `+=` adds another part's, exactly."""

    sums: Float64[np.ndarray, "R k C"]
    """Sum of the rows nearest to each centroid."""
    sizes: Int64[np.ndarray, "R k"]
    """Number of them."""

    @classmethod
    def zeros(cls, num_restarts: int, k: int, width: int) -> "ClusterSums":
        """Return those of no rows."""
        return cls(np.zeros((num_restarts, k, width)), np.zeros((num_restarts, k), np.int64))

    def grow(self, num_restarts: int) -> None:
        """Make room for at least so many restarts; new ones have no members."""
        missing = num_restarts - len(self.sums)
        if missing <= 0:
            return
        self.sums = np.concatenate([self.sums, np.zeros((missing, *self.sums.shape[1:]))])
        self.sizes = np.concatenate([self.sizes, np.zeros((missing, self.sizes.shape[1]), np.int64)])

    @classmethod
    def total(cls, parts: Iterable["ClusterSums"]) -> "ClusterSums":
        """Return the sum of at least one, which stay as they are; one at a time is looked at."""
        parts = iter(parts)
        first = next(parts)
        whole = cls(first.sums.copy(), first.sizes.copy())
        for part in parts:
            whole += part
        return whole

    def __iadd__(self, other: "ClusterSums") -> "ClusterSums":
        self.sums += other.sums
        self.sizes += other.sizes
        return self


def move_members(
    sums: Float64[np.ndarray, "k C"],
    rows: Float32[np.ndarray, "m C"],
    new: Int32[np.ndarray, " m"],
    old: Int32[np.ndarray, " m"],
) -> None:
    """Add rows to the sums of their new clusters and take them away from those of their old ones, exactly.

    Args:
        sums: of a restart's clusters; changed in place.
        rows: on the grid of `round_to_grid`.
        new: cluster of each row.
        old: the cluster it was in, -1 where it was in none.
    """
    wide, left = rows.astype(np.float64), np.flatnonzero(old >= 0)
    places = np.concatenate([np.arange(len(rows)), left])
    signs = np.concatenate([np.ones(len(rows)), -np.ones(len(left))])
    sums += csr_array((signs, (np.concatenate([new, old[left]]), places)), shape=(len(sums), len(rows))) @ wide


def inertias(
    part: ClusterSums, centroids: Float32[np.ndarray, "R k C"], squared_norm: float
) -> Float64[np.ndarray, " R"]:
    """Return each restart's sum of squared distances to the nearest centroid, from the sums alone.

    Args:
        part: of all rows.
        centroids: those that the rows were assigned to.
        squared_norm: sum of all rows' squared norms.
    """
    crossed = np.einsum("rkc,rkc->r", centroids, part.sums)
    squared = np.einsum("rkc,rkc->rk", centroids, centroids, dtype=np.float64)
    return np.maximum(squared_norm - 2 * crossed + (part.sizes * squared).sum(axis=1), 0)


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
    moved = centroids.copy()
    np.divide(part.sums, sizes[..., None], out=moved, where=sizes[..., None] > 0, casting="same_kind")
    signs = np.where(np.arange(centroids.shape[-1]) % 2, -1, 1) * _SPLIT
    for restart, empty in zip(*np.nonzero(part.sizes == 0), strict=True):
        largest = sizes[restart].argmax()
        centre = moved[restart, largest].copy()
        moved[restart, empty], moved[restart, largest] = centre * (1 + signs), centre * (1 - signs)
        sizes[restart, empty] = sizes[restart, largest] // 2
        sizes[restart, largest] -= sizes[restart, empty]
    return moved, (part.sizes == 0).sum(axis=1)


def sample_size(k: int) -> int:
    """Return how many rows k-means++ draws from: 8 a cluster, at least 4,096, and no more than a matrix of all their
    products allows (1 GiB), unless there are more clusters than that."""
    return max(k, min(max(8 * k, 4096), _MOST_SAMPLED))


def num_candidates(k: int) -> int:
    """Return how many rows are tried for each further centroid of a start."""
    return 2 + int(np.log(k))


class Sample:
    """Rows that starts are drawn from: the products of all pairs are worked out once, for all restarts.

    Args:
        rows: n rows of the data.
    """

    def __init__(self, rows: Float32[np.ndarray, "n C"]) -> None:
        self.rows = rows
        self._norms = np.einsum("nc,nc->n", rows, rows)
        self._products = rows @ rows.T if len(rows) <= _MOST_SAMPLED else None

    def distances(self, numbers: Int64[np.ndarray, " m"]) -> Float32[np.ndarray, "m n"]:
        """Return squared distances of some rows to all; 0 between rows that are equal but for rounding."""
        products = self.rows[numbers] @ self.rows.T if self._products is None else self._products[numbers]
        squared = np.maximum(self._norms + self._norms[numbers, None] - 2 * products, 0)
        squared[squared <= 1e-6 * self._norms] = 0
        return squared

    def plus_plus(self, draws: Float64[np.ndarray, "k candidates"]) -> Float32[np.ndarray, "k C"]:
        """Return k of the rows as a start. Of some candidates, each drawn with a chance proportional to its squared
        distance to the centroids before, the one is taken that leaves the smallest sum of squared distances.

        Args:
            draws: in [0, 1). Once every row is a centroid the rest are drawn evenly.

        Raises:
            UserError: fewer rows than centroids.

        Source: Arthur & Vassilvitskii, "k-means++", SODA 2007, with the greedy choice of its section on experiments.
        """
        k = len(draws)
        if len(self.rows) < k:
            raise UserError(
                f"{len(self.rows)} features can't start {k} clusters: give at least as many images as clusters"
            )
        chosen = np.empty(k, np.int64)
        chosen[0] = draws[0, 0] * len(self.rows)
        closest = self.distances(chosen[:1])[0]
        for number in range(1, k):
            weights = np.cumsum(closest if closest.any() else np.ones(len(self.rows)), dtype=np.float64)
            candidates = np.searchsorted(weights, draws[number] * weights[-1], side="right").clip(0, len(closest) - 1)
            left = np.minimum(closest, self.distances(candidates))
            best = left.sum(axis=1, dtype=np.float64).argmin()
            chosen[number], closest = candidates[best], left[best]
        return self.rows[chosen]
