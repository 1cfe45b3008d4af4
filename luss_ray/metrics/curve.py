"""The attention threshold curve from one pass over the images: what each threshold would have been scored."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int64, Integer, UInt8

from luss_ray.core.errors import UserError
from luss_ray.metrics.boundaries import border_band, boundary_mask, boundary_width_px, window_extremes
from luss_ray.metrics.curve_totals import CLASS, EVENT, Cooccurrence, ImageCurve, Slots
from luss_ray.metrics.image_store import ImageStore, from_arrays, to_arrays
from luss_ray.metrics.levels import Levels
from luss_ray.metrics.matching import MatchingCounts, match_by_images, matching_total
from luss_ray.metrics.runs import Runs, find_runs, mask_rows
from luss_ray.metrics.scores import Scores
from luss_ray.metrics.segmentation import SegmentationCounts

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
    """Sparse counts of label maps against masks, enough to score every threshold; `+=` merges workers' counts.

    A pixel is other at threshold t when its attention is below t, strictly, in float32. As t rises a pixel goes from
    its label to other once, so its part in every threshold's counts is an interval of thresholds; so is the time
    that it spends on a boundary. Each image leaves the interval ends, summed by (category, cluster), behind: some
    20 KB of a 500x375 photograph with a dozen clusters, 50 KB with boundaries. They go to temporary files, so
    memory doesn't grow with the number of images.

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
    images: ImageStore = field(default_factory=ImageStore, repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.thresholds) < 255 or any(np.diff(self.thresholds) <= 0):
            raise UserError(f"thresholds must be 1 to 254 ascending numbers, got {self.thresholds}")
        self._clusters = self.num_clusters or self.num_categories
        self._levels = Levels(np.array(self.thresholds, np.float32))

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
        lifetimes = self._lifetimes(labels, attention)
        no_edge = np.zeros(mask.shape, bool)
        runs = find_runs(labels, mask, no_edge, boundary_mask(mask) if self.boundary else no_edge)
        categories, rows = mask_rows(runs.mask, self.num_categories)
        clusters, table = self._intervals(labels, lifetimes, runs, rows, len(categories))
        classes = np.zeros(len(categories), CLASS)
        classes["category"] = categories
        for name, pixels in (("pixels", runs.pixels), ("boundary_pixels", runs.pixels * runs.mask_edge)):
            classes[name] = np.bincount(rows, weights=pixels, minlength=len(categories) + 1)[:-1]
        row, kind, cluster, at = np.nonzero(table)
        events = np.zeros(len(row), EVENT)
        events["row"], events["kind"], events["cluster"], events["at"] = row, kind, clusters[cluster], at
        events["delta"] = table[row, kind, cluster, at]
        self.images.extend([ImageCurve(classes, events, attention is not None)])

    def _lifetimes(
        self, labels: Integer[np.ndarray, "H W"], attention: Float[np.ndarray, "H W"] | None
    ) -> UInt8[np.ndarray, "H W"]:
        """At how many of the thresholds, from the lowest up, a pixel keeps its label; 0 where that is other anyway."""
        alive = (
            len(self._levels) if attention is None else self._levels.reached(attention.astype(np.float32, copy=False))
        )
        return np.where(labels > 0, alive, 0).astype(np.uint8)

    def _intervals(
        self,
        labels: Integer[np.ndarray, "H W"],
        lifetimes: UInt8[np.ndarray, "H W"],
        runs: Runs,
        rows: Integer[np.ndarray, " R"],
        num_rows: int,
    ) -> tuple[Integer[np.ndarray, " L"], Int64[np.ndarray, "G 3 L T"]]:
        """Clusters present, 0 first; starts minus ends of intervals by (category row, kind, cluster, threshold)."""
        present = np.bincount(runs.labels, minlength=1) > 0
        present[0] = True
        clusters = np.flatnonzero(present)
        column = (np.cumsum(present) - 1)[runs.labels]
        shape = (num_rows + 1, 2, len(clusters), len(self._levels) + 1)
        code = np.repeat(((rows * 2 + runs.mask_edge) * shape[2] + column) * shape[3], runs.pixels)

        def count(times: UInt8[np.ndarray, "H W"]) -> Int64[np.ndarray, "G1 2 L T1"]:
            return np.bincount(code + times.ravel(), minlength=int(np.prod(shape))).reshape(shape)

        ended = count(lifetimes)
        table = np.zeros((num_rows + 1, 3, *shape[2:]), np.int64)
        table[:, 0] = -ended.sum(axis=1)
        table[:, 0, :, 0] -= table[:, 0].sum(axis=2)
        if self.boundary:
            starts, ends = _boundary_times(labels, lifetimes, len(self._levels))
            table[:, 1:] = count(starts) - ended
            table[:, 1:, 0] += (ended - count(ends)).sum(axis=2)
        return clusters, table[:-1, ..., :-1]

    def __iadd__(self, other: "ThresholdCurve") -> "ThresholdCurve":
        assert self._key() == other._key()
        self.images.extend(other.images)
        return self

    def _key(self) -> tuple[int, int | None, tuple[float, ...], bool]:
        return self.num_categories, self.num_clusters, self.thresholds, self.boundary

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the counted images as arrays for `numpy.savez`; the settings aren't in them."""
        return to_arrays(self.images)

    def add_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Add the images that `to_arrays` of a curve with the same settings gave."""
        self.images.extend(from_arrays(arrays))

    def compute(
        self,
        *,
        match: Callable[[MatchingCounts], Int64[np.ndarray, " clusters"]] = match_by_images,
        mappings: Integer[np.ndarray, "T clusters"] | None = None,
    ) -> Curve:
        """Return scores and matching at every threshold.

        Args:
            match: what cluster met what category -> mapping; clusters mapped to 0 count as other.
            mappings: score with these instead of matching at each threshold.

        Raises:
            UserError: no image was counted.
        """
        if not len(self.images):
            raise UserError("no image was evaluated: check that the split has masks and that label maps exist for it")
        chosen, totals = [], []
        for level, met in enumerate(self._cooccurrences()):
            counts = met.counts()
            mapping = match(counts) if mappings is None else np.asarray(mappings[level], np.int64)
            chosen.append(mapping)
            totals.append(matching_total(counts.images, mapping))
        scored = [SegmentationCounts(self.num_categories, self.boundary) for _ in self.thresholds]
        for slots in self._slots():
            for level, mapping in enumerate(chosen):
                slots.advance(level)
                scored[level] = scored[level] + slots.counts(mapping)
        scores = [counts.compute() for counts in scored]
        return Curve(np.array(self.thresholds), scores, np.stack(chosen), np.array(totals, np.int64))

    def _cooccurrences(self) -> list[Cooccurrence]:
        """Return what cluster met what category at each threshold."""
        met: list[Cooccurrence] = []
        for slots in self._slots():
            here = []
            for level, threshold in enumerate(self.thresholds):
                slots.advance(level)
                here.append(slots.cooccurrence(all_images=bool(threshold <= 0)))
            met = [a.plus(b) for a, b in zip(met, here, strict=True)] if met else here
        return met

    def _slots(self) -> Iterator[Slots]:
        """Return the counts of all images, a block of them at a time, each before the first threshold."""
        for block in self.images.blocks():
            yield Slots(block, self.num_categories, self._clusters, self.boundary)


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
