"""How much of the images keeps a label, and which: for any attention threshold, from counts of one pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64

from luss_ray.imagenet_s.soft_label import LEVELS, SoftLabel


@dataclass
class LabelCounts:
    """Pixels of soft labels by cluster and attention; `+` merges workers' counts.

    Pixels are those of the feature map, so that large images count as small ones of the same shape do.

    Args:
        num_clusters: k.
    """

    num_clusters: int
    pixels: Int64[np.ndarray, "k levels"] = field(init=False, repr=False)
    """Pixels of each cluster (place 0 = cluster 1) at each attention level."""

    def __post_init__(self) -> None:
        self.pixels = np.zeros((self.num_clusters, LEVELS), np.int64)

    def update(self, label: SoftLabel) -> None:
        """Count an image; its clusters are within 1 .. k."""
        cells = (label.labels.astype(np.int64) - 1) * LEVELS + label.attention
        self.pixels += np.bincount(cells.ravel(), minlength=self.pixels.size).reshape(self.pixels.shape)

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        assert self.num_clusters == other.num_clusters
        total = LabelCounts(self.num_clusters)
        total.pixels = self.pixels + other.pixels
        return total

    def coverage(self, thresholds: Sequence[float]) -> Float64[np.ndarray, " thresholds"]:
        """Return the share of pixels that keep a label at each threshold, percent; 0 where nothing was counted."""
        kept = [self.pixels[:, _kept(threshold)].sum() for threshold in thresholds]
        return 100 * np.array(kept, np.float64) / max(1, self.pixels.sum())

    def shares(self, threshold: float) -> Float64[np.ndarray, " k"]:
        """Return each cluster's share of the pixels that keep a label, percent; zeros where none does."""
        kept = self.pixels[:, _kept(threshold)].sum(axis=1)
        return 100 * kept / max(1, kept.sum())


def _kept(threshold: float) -> np.ndarray:
    """Return which attention levels are not below a threshold, compared as `Maps.pseudo_label` does."""
    return np.arange(LEVELS, dtype=np.float32) / np.float32(LEVELS - 1) >= np.float32(threshold)
