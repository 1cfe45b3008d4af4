"""Merges many small clusters into as many as are wanted."""

import numpy as np
from jaxtyping import Float, Int64, Integer


def merge_clusters(
    centroids: Float[np.ndarray, "M C"], sizes: Integer[np.ndarray, " M"], num_groups: int
) -> Int64[np.ndarray, " M"]:
    """Return the group of each of M clusters, from 0, the group of the first cluster first.

    Two groups at a time become one, those whose union adds least to the sum of squared distances of all rows to their
    group's mean, until `num_groups` are left.

    Args:
        centroids: means of the clusters.
        sizes: rows in each; an empty cluster joins whatever is nearest.
        num_groups: 1 to M.

    Source: Ward, "Hierarchical grouping to optimize an objective function", JASA 1963, from clusters instead of rows,
    with the update of Lance & Williams, 1967.
    """
    weights, every = sizes.astype(np.float64), np.arange(len(sizes))
    groups, alive = every.copy(), np.ones(len(sizes), bool)
    costs = _costs(centroids.astype(np.float64), weights)
    nearest = costs.argmin(axis=1)
    for _ in range(len(sizes) - num_groups):
        one = int(np.where(alive, costs[every, nearest], np.inf).argmin())
        kept, gone = sorted((one, int(nearest[one])))
        with np.errstate(invalid="ignore"):  # costs of what is gone are infinite
            sums = (weights[kept] + weights) * costs[kept] + (weights[gone] + weights) * costs[gone]
            united = _ratio(sums - weights * costs[kept, gone], weights[kept] + weights[gone] + weights)
        weights[kept], alive[gone] = weights[kept] + weights[gone], False
        groups[groups == gone] = kept
        costs[gone], costs[:, gone] = np.inf, np.inf
        costs[kept] = costs[:, kept] = np.where(alive & (every != kept), united, np.inf)
        nearest[costs[:, kept] < costs[every, nearest]] = kept
        for stale in np.flatnonzero(alive & ((nearest == gone) | (nearest == kept) | (every == kept))):
            nearest[stale] = costs[stale].argmin()
    return np.unique(groups, return_inverse=True)[1]


def _costs(means: Float[np.ndarray, "M C"], weights: Float[np.ndarray, " M"]) -> Float[np.ndarray, "M M"]:
    """Return what the union of each two would add to the sum of squared distances; infinite for one with itself."""
    norms = np.square(means).sum(axis=1)
    squared = np.maximum(norms + norms[:, None] - 2 * means @ means.T, 0)
    costs = squared * _ratio(weights * weights[:, None], weights + weights[:, None])
    np.fill_diagonal(costs, np.inf)
    return costs


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return the quotient, 0 over nothing."""
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)
