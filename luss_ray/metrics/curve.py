"""The attention threshold curve from one pass over the images: what each threshold would have been scored."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int64, Integer, UInt8
from scipy.sparse import csr_array

from luss_ray.core.errors import UserError
from luss_ray.metrics.boundaries import border_band, boundary_mask, boundary_width_px, window_extremes
from luss_ray.metrics.curve_totals import CLASS, EVENT, ImageCurve, Slots
from luss_ray.metrics.matching import hungarian, matching_total
from luss_ray.metrics.scores import Scores
from luss_ray.metrics.segmentation import mask_rows

PUBLISHED_THRESHOLDS = tuple((np.arange(81) / 100).tolist())
"""0.00 .. 0.80 in steps of 0.01."""


@dataclass(frozen=True)
class Curve:
    """Scores and matching at each of T thresholds."""

    thresholds: Float[np.ndarray, " T"]
    scores: list[Scores]
    mappings: Int64[np.ndarray, "T clusters"]
    """Cluster -> category, 0 -> 0, at each threshold."""
    matching_totals: Int64[np.ndarray, " T"]
    """Image-level co-occurrence of the mapping's pairs."""

    @property
    def best(self) -> int:
        """Index of the first maximum of mIoU."""
        return int(np.argmax([scores.miou for scores in self.scores]))

    @property
    def best_threshold(self) -> float:
        """Threshold of the first maximum of mIoU."""
        return float(self.thresholds[self.best])


@dataclass
class ThresholdCurve:
    """Sparse counts of label maps against masks, enough to score every threshold; `+` merges workers' counts.

    A pixel is other at threshold t when its attention is below t, strictly, in float32. As t rises a pixel goes from
    its label to other once, so its part in every threshold's counts is an interval of thresholds; so is the time
    that it spends on a boundary. Each image leaves the interval ends, summed by (category, cluster), behind: some
    20 KB of a 500x375 photograph with a dozen clusters, 50 KB with boundaries.

    Args:
        num_categories: N.
        num_clusters: clusters in the label maps, N unless given.
        thresholds: ascending, at most 254 of them.
        boundary: count boundaries too. They are those of the clusters at each threshold; with clusters that are
            matched to one category or to none, inner boundaries remain.

    Source: PASS (arXiv 2106.03149), evaluation; there one pass over the images a threshold.
    """

    num_categories: int
    num_clusters: int | None = None
    thresholds: tuple[float, ...] = PUBLISHED_THRESHOLDS
    boundary: bool = True
    images: list[ImageCurve] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.thresholds) < 255 or any(np.diff(self.thresholds) <= 0):
            raise UserError(f"thresholds must be 1 to 254 ascending numbers, got {self.thresholds}")
        self._clusters = self.num_clusters or self.num_categories
        self._levels = np.array(self.thresholds, np.float32)

    def update(
        self,
        labels: Integer[np.ndarray, "H W"],
        attention: Float[np.ndarray, "H1 W1"] | None,
        mask: Integer[np.ndarray, "H2 W2"],
    ) -> None:
        """Count one image; all three have one size.

        Args:
            labels: cluster of each pixel before any threshold, 0 = other.
            attention: float16 or float32. None, when it is missing: scored as if never below a threshold, while the
                matching takes all of it for other at thresholds above 0, as the published evaluator does.
            mask: ground truth, 0 = other, 1..N, 1000 = ignore.

        Raises:
            UserError: sizes differ, a label above the number of clusters or an id in the mask that is no category.
        """
        if labels.shape != mask.shape or (attention is not None and attention.shape != mask.shape):
            raise UserError(f"labels are {labels.shape} and mask {mask.shape} (height, width): make them one size")
        if labels.max() > self._clusters:
            raise UserError(f"label {labels.max()} in a map of {self._clusters} clusters: set num_clusters")
        categories, rows = mask_rows(mask, self.num_categories)
        lifetimes = self._lifetimes(labels, attention)
        clusters, table = self._intervals(labels, lifetimes, mask, rows, len(categories))
        edge = boundary_mask(mask) if self.boundary else np.zeros(mask.shape, bool)
        classes = np.zeros(len(categories), CLASS)
        classes["category"] = categories
        classes["pixels"] = np.bincount(rows.ravel(), minlength=len(categories) + 1)[:-1]
        classes["boundary_pixels"] = np.bincount(rows[edge], minlength=len(categories) + 1)[:-1]
        row, kind, cluster, at = np.nonzero(table)
        events = np.zeros(len(row), EVENT)
        events["row"], events["kind"], events["cluster"], events["at"] = row, kind, clusters[cluster], at
        events["delta"] = table[row, kind, cluster, at]
        self.images.append(ImageCurve(classes, events, attention is not None))

    def _lifetimes(
        self, labels: Integer[np.ndarray, "H W"], attention: Float[np.ndarray, "H W"] | None
    ) -> UInt8[np.ndarray, "H W"]:
        """At how many of the thresholds, from the lowest up, a pixel keeps its label; 0 where that is other anyway."""
        if attention is None:
            alive = np.full(labels.shape, len(self._levels), np.uint8)
        else:
            alive = np.searchsorted(self._levels, attention.astype(np.float32, copy=False), side="right")
        return np.where(labels > 0, alive, 0).astype(np.uint8)

    def _intervals(
        self,
        labels: Integer[np.ndarray, "H W"],
        lifetimes: UInt8[np.ndarray, "H W"],
        mask: Integer[np.ndarray, "H W"],
        rows: Integer[np.ndarray, "H W"],
        num_rows: int,
    ) -> tuple[Integer[np.ndarray, " L"], Int64[np.ndarray, "G 3 L T"]]:
        """Clusters present, 0 first; starts minus ends of intervals by (category row, kind, cluster, threshold)."""
        num_levels = len(self._levels)
        present = np.bincount(labels.ravel(), minlength=1) > 0
        present[0] = True
        clusters = np.flatnonzero(present)
        columns = (np.cumsum(present) - 1)[labels]
        shape = (num_rows + 1, 3, len(clusters), num_levels + 1)
        strides = [int(np.prod(shape[axis + 1 :])) for axis in range(3)]
        base = rows * strides[0]

        def count(kind: Integer[np.ndarray, "H W"] | int, column: np.ndarray | int, start: np.ndarray, end: np.ndarray):
            code = base + kind * strides[1] + column * strides[2]
            size = int(np.prod(shape))
            started = np.bincount((code + start).ravel(), minlength=size)
            return started - np.bincount((code + end).ravel(), minlength=size)

        table = count(0, columns, np.zeros_like(lifetimes), lifetimes)
        if self.boundary:
            kind = np.where(boundary_mask(mask), np.intp(2), np.intp(1))
            starts, ends = _boundary_times(labels, lifetimes, num_levels)
            table += count(kind, columns, starts, lifetimes) + count(kind, 0, lifetimes, ends)
        return clusters, table.reshape(shape)[:-1, ..., :-1]

    def __add__(self, other: "ThresholdCurve") -> "ThresholdCurve":
        assert self._key() == other._key()
        return ThresholdCurve(*self._key(), images=self.images + other.images)

    def _key(self) -> tuple[int, int | None, tuple[float, ...], bool]:
        return self.num_categories, self.num_clusters, self.thresholds, self.boundary

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the counted images as arrays for `numpy.savez`; the settings aren't in them."""
        empty = [ImageCurve(np.zeros(0, CLASS), np.zeros(0, EVENT), True)]
        return {
            "classes": np.concatenate([image.classes for image in empty + self.images]),
            "events": np.concatenate([image.events for image in empty + self.images]),
            "num_classes": np.array([len(image.classes) for image in self.images], np.int64),
            "num_events": np.array([len(image.events) for image in self.images], np.int64),
            "has_attention": np.array([image.has_attention for image in self.images], bool),
        }

    def add_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Add the images that `to_arrays` of a curve with the same settings gave."""
        classes = np.split(arrays["classes"], np.cumsum(arrays["num_classes"])[:-1])
        events = np.split(arrays["events"], np.cumsum(arrays["num_events"])[:-1])
        if len(arrays["has_attention"]):
            self.images += map(ImageCurve, classes, events, arrays["has_attention"].tolist())

    def compute(
        self,
        *,
        match: Callable[[Integer[np.ndarray, "C N"]], Int64[np.ndarray, " clusters"]] = hungarian,
        mappings: Integer[np.ndarray, "T clusters"] | None = None,
    ) -> Curve:
        """Return scores and matching at every threshold.

        Args:
            match: image-level co-occurrence -> mapping; clusters mapped to 0 count as other.
            mappings: score with these instead of matching at each threshold.

        Raises:
            UserError: no image was counted.
        """
        if not self.images:
            raise UserError("no image was evaluated: check that the split has masks and that label maps exist for it")
        slots = Slots(self.images, self.num_categories, self._clusters, self.boundary)
        scores, chosen, totals = [], [], []
        for level, counts in enumerate(self._cooccurrences(slots)):
            mapping = match(counts) if mappings is None else np.asarray(mappings[level], np.int64)
            scores.append(slots.scores(mapping))
            chosen.append(mapping)
            totals.append(matching_total(counts, mapping))
        return Curve(np.array(self.thresholds), scores, np.stack(chosen), np.array(totals, np.int64))

    def _cooccurrences(self, slots: Slots) -> Iterator[Int64[np.ndarray, "C N"]]:
        """Move the slots through the thresholds; at each give the image-level co-occurrence of cluster and category."""
        with_attention = np.array([image.has_attention for image in self.images])
        truth = csr_array(slots.truth_present()[:, 1:].astype(np.int64))
        for level, threshold in enumerate(self._levels):
            slots.advance(level)
            image, cluster = slots.present_clusters(with_attention | bool(threshold <= 0))
            shape = (len(self.images), self._clusters + 1)
            predicted = csr_array((np.ones(len(image), np.int64), (image, cluster)), shape=shape)
            yield (predicted.T @ truth).toarray()[1:]


def _boundary_times(
    labels: Integer[np.ndarray, "H W"], lifetimes: UInt8[np.ndarray, "H W"], num_levels: int
) -> tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H W"]]:
    """When a pixel with a label joins the boundary, and when a pixel that became other leaves it.

    With its label it is on a boundary from the first threshold at which a neighbour within the boundary width has
    become other, or always next to another label or the border. As other it stays on one while such a neighbour still
    has a label, or always next to the border.
    """
    distance_px = boundary_width_px(*labels.shape)
    first, last = window_extremes(lifetimes, distance_px)
    starts = np.where(boundary_mask(labels), 0, first)
    ends = np.where(border_band(labels.shape, distance_px), num_levels, last)
    return starts.astype(np.uint8), ends.astype(np.uint8)
