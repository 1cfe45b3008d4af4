"""The centroid nearest to each row: looked for in float32, decided in float64 where float32 can't tell."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32

TILE_COLUMNS = 4096
"""Centroids that rows meet in one matrix product, at most, unless one set has more."""
_DECIDED_AT_ONCE = 256
_PAIRS_AT_ONCE = 4096
_MANY_CANDIDATES = 8


@dataclass
class Nearest:
    """The best of R sets of centroids for each of n rows. A score is x.c - |c|^2 / 2: the highest is the nearest."""

    clusters: Int32[np.ndarray, "R n"]
    scores: Float32[np.ndarray, "R n"]
    leads: Float32[np.ndarray, "R n"]
    """By how much the score is above that of the second best; infinite where there is none."""

    @classmethod
    def empty(cls, num_sets: int, num_rows: int) -> "Nearest":
        """Return one that is still to be filled in."""
        shape = num_sets, num_rows
        return cls(np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty(shape, np.float32))


def tile_rows(width: int) -> int:
    """Return how many rows of a width meet centroids in one matrix product.

    The wider they are, the more of them a product needs to make up for arranging the centroids, and the less it weighs
    that the scores don't fit the cache.
    """
    return min(max(2 * width, 1024), 8192)


def half_norms(centroids: Float32[np.ndarray, "*R k C"]) -> Float32[np.ndarray, "*R k"]:
    """Return half of each centroid's squared norm."""
    return (np.einsum("...c,...c->...", centroids, centroids, dtype=np.float64) / 2).astype(np.float32)


def largest_norm(vectors: Float32[np.ndarray, "*n C"]) -> float:
    """Return the largest Euclidean norm of some vectors, 0 of none."""
    return float(np.sqrt(np.einsum("...c,...c->...", vectors, vectors, dtype=np.float64).max(initial=0)))


def rounding(width: int, row_norm: float, centroid_norm: float) -> float:
    """Return by how much two scores in float32 may differ though they are equal.

    It bounds the rounding of a sum of products in whatever order (Higham, "Accuracy and Stability of Numerical
    Algorithms", section 3.1), so it holds for any matrix product that multiplies and adds in float32.

    Args:
        width: C.
        row_norm: largest norm of a row.
        centroid_norm: largest norm of a centroid.
    """
    return 2 * (width + 4) * 2.0**-24 * (row_norm * centroid_norm + centroid_norm**2)


def nearest_centroids(rows: Float32[np.ndarray, "n C"], centroids: Float32[np.ndarray, "R k C"]) -> Nearest:
    """Return the centroids with the highest scores, for R sets of k.

    Several sets share one matrix product; float32, on NumPy's BLAS and in this thread alone where that was told so.
    Measured beside faiss' own search in benchmarks/RESULTS.md.

    Args:
        rows: C-contiguous.
        centroids: C-contiguous.
    """
    num_sets, k, width = centroids.shape
    norms, together, height = half_norms(centroids), max(1, TILE_COLUMNS // k), tile_rows(width)
    found = Nearest.empty(num_sets, len(rows))
    buffer = np.empty(min(len(rows), height) * min(num_sets, together) * k, np.float32)
    for start in range(0, len(rows), height):
        tile = rows[start : start + height]
        for first in range(0, num_sets, together):
            some = slice(first, min(first + together, num_sets))
            columns = (some.stop - first) * k
            scores = buffer[: len(tile) * columns].reshape(len(tile), columns)
            np.matmul(tile, centroids[some].reshape(columns, width).T, out=scores)
            scores -= norms[some].reshape(columns)
            by_set = scores.reshape(len(tile), -1, k)
            best = by_set.argmax(axis=2, keepdims=True)
            highest = np.take_along_axis(by_set, best, axis=2)
            np.put_along_axis(by_set, best, -np.inf, axis=2)
            part = some, slice(start, start + len(tile))
            found.clusters[part], found.scores[part] = best[..., 0].T, highest[..., 0].T
            found.leads[part] = (highest[..., 0] - by_set.max(axis=2)).T
    return found


def decide(
    rows: Float32[np.ndarray, "m C"], centroids: Float32[np.ndarray, "k C"], slack: float
) -> tuple[Int32[np.ndarray, " m"], Float32[np.ndarray, " m"]]:
    """Return the number of the centroid nearest to each row, the first of equals, and its score, told in float64.

    Scores are added up in one order wherever the row and the centroid stand, on any processor.

    Args:
        rows: those for which float32 can't tell.
        centroids: of one set.
        slack: of `rounding`; centroids that are further behind than that are not looked at.
    """
    norms = half_norms(centroids)
    clusters, highest = np.empty(len(rows), np.int32), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _DECIDED_AT_ONCE):
        some = rows[start : start + _DECIDED_AT_ONCE]
        rough = some @ centroids.T - norms
        near = rough >= rough.max(axis=1, keepdims=True) - slack
        if near.sum() > _MANY_CANDIDATES * len(some):
            near &= _is_first(centroids)  # of equal centroids only the first can win
        row, centroid = np.nonzero(near)
        scores = np.empty(len(row))
        for first in range(0, len(row), _PAIRS_AT_ONCE):
            pairs = slice(first, first + _PAIRS_AT_ONCE)
            candidates = centroids[centroid[pairs]]
            scores[pairs] = _dots(some[row[pairs]], candidates) - _dots(candidates, candidates) / 2
        _, starts = np.unique(row, return_index=True)
        winners = np.flatnonzero(scores == np.maximum.reduceat(scores, starts)[row])
        _, firsts = np.unique(row[winners], return_index=True)
        part = slice(start, start + len(some))
        clusters[part], highest[part] = centroid[winners[firsts]], scores[winners[firsts]]
    return clusters, highest


def _dots(a: Float32[np.ndarray, "n C"], b: Float32[np.ndarray, "n C"]) -> Float64[np.ndarray, " n"]:
    """Products of rows, pair by pair; each row is summed by itself."""
    return np.multiply(a, b, dtype=np.float64).sum(axis=1)


def _is_first(centroids: Float32[np.ndarray, "k C"]) -> Bool[np.ndarray, " k"]:
    """Return which centroids have none like them before."""
    firsts = {centroids[number].tobytes(): number for number in reversed(range(len(centroids)))}
    return np.isin(np.arange(len(centroids)), list(firsts.values()))
