"""An attention threshold without labels, from the histogram of all attention values."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int64, Integer

from luss_ray.core.errors import UserError


@dataclass
class AttentionHistogram:
    """Counts of attention values in equal bins over [0, 1]; `+` merges workers' counts.

    Args:
        num_bins: at least 2.
    """

    num_bins: int = 1000
    counts: Int64[np.ndarray, " bins"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        assert self.num_bins >= 2
        self.counts = np.zeros(self.num_bins, np.int64)

    @property
    def edges(self) -> Float[np.ndarray, " edges"]:
        """Borders of the bins; the last bin holds 1 too."""
        return np.arange(self.num_bins + 1) / self.num_bins

    def update(self, attention: Float[np.ndarray, "*shape"]) -> None:
        """Count values; those outside [0, 1] count at the ends.

        Args:
            attention: sigmoid outputs, finite.
        """
        assert np.isfinite(attention).all(), "attention is not finite"
        bins = (attention.astype(np.float32) * np.float32(self.num_bins)).astype(np.int64)
        self.counts += np.bincount(bins.clip(0, self.num_bins - 1).ravel(), minlength=self.num_bins)

    def __add__(self, other: "AttentionHistogram") -> "AttentionHistogram":
        assert self.num_bins == other.num_bins
        total = AttentionHistogram(self.num_bins)
        total.counts = self.counts + other.counts
        return total


def otsu(counts: Integer[np.ndarray, " bins"], edges: Float[np.ndarray, " edges"]) -> float:
    """Return the bin edge that splits the values with the largest variance between the two sides.

    Pixels below it become other. Among equally good edges (an empty gap between two modes) it is the middle one. When
    all values lie in one bin there is nothing to split: the answer is that bin's lower edge, which keeps every pixel.

    Args:
        counts: values in each bin.
        edges: ascending borders of the bins.

    Raises:
        UserError: the histogram is empty.

    Source: Otsu, "A threshold selection method from gray-level histograms", 1979.
    """
    only = _only_bin(counts)
    if only is not None:
        return float(edges[only])
    between = _between_variances(counts, edges)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(edges[1:-1][best[len(best) // 2]])


def separability(counts: Integer[np.ndarray, " bins"], edges: Float[np.ndarray, " edges"]) -> float:
    """Return how much of the variance Otsu's split explains, 0..1; 0 for a single bin.

    A uniform histogram has 0.75, a Gaussian 0.64 and two narrow modes nearly 1: towards the former, distrust the
    threshold.

    Args:
        counts: values in each bin.
        edges: ascending borders of the bins.

    Raises:
        UserError: the histogram is empty.
    """
    if _only_bin(counts) is not None:
        return 0.0
    centres, weights = (edges[1:] + edges[:-1]) / 2, counts / counts.sum()
    variance = float(weights @ (centres - weights @ centres) ** 2)
    return float(_between_variances(counts, edges).max() / variance)


def two_gaussians(counts: Integer[np.ndarray, " bins"], edges: Float[np.ndarray, " edges"]) -> float:
    """Return the value between two fitted Gaussians' means from which on the upper one is the likelier.

    Expectation-maximisation from Otsu's split, 200 steps, deviations kept above half a bin. Where one side swallows
    the other (no crossing between the means), and for a single occupied bin, Otsu's threshold is the answer.

    Args:
        counts: values in each bin.
        edges: ascending borders of the bins.

    Raises:
        UserError: the histogram is empty.
    """
    start = otsu(counts, edges)
    if _only_bin(counts) is not None:
        return start
    centres, weights = (edges[1:] + edges[:-1]) / 2, counts / counts.sum()
    floor = float(np.diff(edges).max()) / 2
    upper = (centres > start).astype(float)
    means = np.zeros(2)
    for _ in range(200):
        shares = np.stack([1 - upper, upper]) * weights
        totals = shares.sum(axis=1)
        if totals.min() < 1e-9:
            return start
        means = shares @ centres / totals
        squares = (shares * (centres - means[:, None]) ** 2).sum(axis=1) / totals
        deviations = np.sqrt(np.maximum(squares, floor**2))
        logs = np.log(totals / deviations)[:, None] - ((centres - means[:, None]) / deviations[:, None]) ** 2 / 2
        upper = 1 / (1 + np.exp(np.clip(logs[0] - logs[1], -500, 500)))
    likelier = np.flatnonzero((upper >= 0.5) & (centres > means[0]) & (centres <= means[1]))
    return float(edges[likelier[0]]) if len(likelier) else start


def _only_bin(counts: Integer[np.ndarray, " bins"]) -> int | None:
    occupied = np.flatnonzero(counts)
    if not len(occupied):
        raise UserError("the attention histogram is empty: no image gave an attention map")
    return int(occupied[0]) if len(occupied) == 1 else None


def _between_variances(
    counts: Integer[np.ndarray, " bins"], edges: Float[np.ndarray, " edges"]
) -> Float[np.ndarray, " inner"]:
    """Variance between the sides of each inner edge."""
    centres, weights = (edges[1:] + edges[:-1]) / 2, counts / counts.sum()
    below, moment = np.cumsum(weights)[:-1], np.cumsum(weights * centres)[:-1]
    spread = below * (1 - below)
    occupied = (np.cumsum(counts)[:-1] > 0) & (np.cumsum(counts)[:-1] < counts.sum())
    return np.divide((weights @ centres * below - moment) ** 2, spread, out=np.zeros_like(spread), where=occupied)
