"""Totals of the threshold curve's sparse counts at one threshold after the other."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Integer, Shaped
from scipy.sparse import coo_array, csr_array

from luss_ray.metrics.matching import MatchingCounts
from luss_ray.metrics.scores import (
    BOTH,
    BOUNDARY,
    NUM_PARTS,
    PREDICTED,
    REGION,
    TRUTH,
    f_measures,
    f_units,
    size_members,
)
from luss_ray.metrics.segmentation import SegmentationCounts

CLASS = np.dtype([("category", "<u2"), ("pixels", "<i4"), ("boundary_pixels", "<i4")])
"""One ground-truth class of an image."""
EVENT = np.dtype([("row", "<u2"), ("cluster", "<u2"), ("kind", "u1"), ("at", "u1"), ("delta", "<i4")])
"""From threshold number `at` on, `delta` more pixels of class number `row` have this cluster; kind 0 = all pixels,
1 = on the prediction's boundary only, 2 = on both boundaries."""


class ImageCurve(NamedTuple):
    """What one image leaves behind: its ground-truth classes, ascending, and changes of counts over thresholds."""

    classes: Shaped[np.ndarray, " G"]
    events: Shaped[np.ndarray, " E"]
    has_attention: bool


class Cooccurrence(NamedTuple):
    """How often each cluster (0 first) meets each category (other first); sums of two are those of all their images."""

    images: csr_array
    pixels: csr_array

    def plus(self, other: "Cooccurrence") -> "Cooccurrence":
        """Return the sum."""
        return Cooccurrence(self.images + other.images, self.pixels + other.pixels)

    def counts(self) -> MatchingCounts:
        """Return them without other on either side."""
        images, pixels = (np.asarray(counts.todense())[1:, 1:] for counts in self)
        total = MatchingCounts(*images.shape)
        total.images, total.pixels = images, pixels
        return total


class Slots:
    """Pixel counts by (image, category, kind, cluster), moved through the thresholds by `advance`.

    Args:
        images: at least one.
        num_categories: N.
        num_clusters: C.
        boundary: whether boundaries were counted.
    """

    def __init__(self, images: list[ImageCurve], num_categories: int, num_clusters: int, boundary: bool) -> None:
        self._num_images, self._num_categories, self._boundary = len(images), num_categories, boundary
        sizes = np.array([len(image.classes) for image in images])
        classes = np.concatenate([image.classes for image in images])
        self._row_image = np.repeat(np.arange(len(images)), sizes)
        self._row_category = classes["category"].astype(np.int64)
        self._row_pixels = np.stack([classes["pixels"], classes["boundary_pixels"]]).astype(np.int64)
        members = [size_members(image.classes["category"], image.classes["pixels"]) for image in images]
        self._members = np.concatenate(members, axis=1)
        self._has_attention = np.array([image.has_attention for image in images])
        truth = (self._row_image, self._row_category)
        self._truth = _sparse(np.ones(len(classes), np.int64), truth, (len(images), num_categories + 1))
        self._num_labels = num_clusters + 1
        self._index_events(images, np.cumsum(sizes) - sizes, num_clusters + 1)

    def _index_events(self, images: list[ImageCurve], first_rows: Integer[np.ndarray, " I"], num_labels: int) -> None:
        events = np.concatenate([image.events for image in images])
        row = events["row"] + np.repeat(first_rows, [len(image.events) for image in images])
        key = (row * 3 + events["kind"]) * num_labels + events["cluster"]
        keys, slots = np.unique(key, return_inverse=True)
        row_kind, self._cluster = np.divmod(keys, num_labels)
        self._row, self._kind = np.divmod(row_kind, 3)
        order = np.argsort(events["at"], kind="stable")
        self._event_slots, self._event_deltas = slots[order], events["delta"][order]
        self._event_starts = np.searchsorted(events["at"][order], np.arange(257))
        self._pixels = np.zeros(len(keys), np.int64)
        pair, self._pair_of_slot = np.unique(
            self._row_image[self._row] * num_labels + self._cluster, return_inverse=True
        )
        self._pair_image, self._pair_cluster = np.divmod(pair, num_labels)

    def advance(self, level: int) -> None:
        """Go on to threshold number `level`; to be called with 0, 1, 2, …"""
        now = slice(self._event_starts[level], self._event_starts[level + 1])
        self._pixels[self._event_slots[now]] += self._event_deltas[now]

    def cooccurrence(self, *, all_images: bool) -> Cooccurrence:
        """Return how often each cluster and category meet at this threshold.

        Args:
            all_images: whether images without attention count too; else they are all other.
        """
        seen = self._has_attention | all_images
        present = (self._pair_pixels() > 0) & seen[self._pair_image]
        pairs = (self._pair_image[present], self._pair_cluster[present])
        predicted = _sparse(np.ones(len(pairs[0]), np.int64), pairs, (self._num_images, self._num_labels))
        images = predicted.T.tocsr() @ self._truth
        region = (self._kind == 0) & seen[self._row_image[self._row]]
        meetings = (self._cluster[region], self._row_category[self._row[region]])
        return Cooccurrence(images, _sparse(self._pixels[region], meetings, images.shape))

    def _pair_pixels(self) -> Int64[np.ndarray, " pairs"]:
        region = self._kind == 0
        return _sums(self._pair_of_slot[region], self._pixels[region], len(self._pair_image))

    def counts(self, mapping: Integer[np.ndarray, " clusters"]) -> SegmentationCounts:
        """Return the counts at this threshold.

        Args:
            mapping: cluster -> category; clusters mapped to 0 are other.
        """
        category, truth = mapping[self._cluster], self._row_category[self._row]
        region = (self._kind == 0) & (category > 0)
        foreground = region & (truth > 0)
        total = SegmentationCounts(self._num_categories, self._boundary)
        counts = total.counts
        self._add(counts[REGION], region, region & (category == truth), category)
        self._complete_other(counts[REGION], region & (truth == 0))
        if self._boundary:
            hit = (self._kind == 2) & (category == truth)
            self._add(counts[BOUNDARY], self._kind > 0, hit, category)
        for kind, pixels in zip(counts[:, TRUTH], self._row_pixels, strict=True):
            self._sum_parts(kind, self._row_category, pixels, self._members)
        total.num_images = self._num_images
        total.num_correct = self._num_correct(mapping)
        total.f_units = self._f_units(foreground, region)
        return total

    def _sum_parts(
        self,
        out: Int64[np.ndarray, "parts categories"],
        categories: Integer[np.ndarray, " S"],
        pixels: Int64[np.ndarray, " S"],
        members: Bool[np.ndarray, "parts S"],
    ) -> None:
        for part in range(NUM_PARTS):
            chosen = members[part]
            out[part] += _sums(categories[chosen], pixels[chosen], out.shape[1])

    def _add(
        self,
        counts: Int64[np.ndarray, "3 parts categories"],
        predicted: Bool[np.ndarray, " S"],
        both: Bool[np.ndarray, " S"],
        category: Integer[np.ndarray, " S"],
    ) -> None:
        for out, chosen in ((counts[PREDICTED], predicted), (counts[BOTH], both)):
            self._sum_parts(out, category[chosen], self._pixels[chosen], self._members[:, self._row[chosen]])

    def _complete_other(
        self, counts: Int64[np.ndarray, "3 parts categories"], false_foreground: Bool[np.ndarray, " S"]
    ) -> None:
        """Count the pixels that are predicted other: all that aren't predicted foreground."""
        pixels, other = self._row_pixels[REGION], self._row_category == 0
        wrong = _sums(self._row[false_foreground], self._pixels[false_foreground], len(pixels))
        for part, members in enumerate(self._members):
            counts[PREDICTED, part, 0] = pixels[members].sum() - counts[PREDICTED, part, 1:].sum()
            counts[BOTH, part, 0] = (pixels - wrong)[members & other].sum()

    def _f_units(self, both: Bool[np.ndarray, " S"], predicted: Bool[np.ndarray, " S"]) -> int:
        image = self._row_image[self._row]
        shared, found = (_sums(image[k], self._pixels[k], self._num_images) for k in (both, predicted))
        real = self._row_category > 0
        truth = _sums(self._row_image[real], self._row_pixels[REGION, real], self._num_images)
        return f_units(f_measures(shared, found, truth))

    def _num_correct(self, mapping: Integer[np.ndarray, " clusters"]) -> int:
        """Number of images whose most frequent category, the lowest id on a tie, is in their mask."""
        columns = self._num_categories + 1
        pixels, category = self._pair_pixels(), mapping[self._pair_cluster]
        votes = (pixels > 0) & (category > 0)
        keys, inverse = np.unique(self._pair_image[votes] * columns + category[votes], return_inverse=True)
        area = _sums(inverse, pixels[votes], len(keys))
        best = np.full(self._num_images, -1, np.int64)
        np.maximum.at(best, keys // columns, area * columns + (columns - 1 - keys % columns))
        winner = columns - 1 - best % columns
        real = np.isin(np.arange(self._num_images) * columns + winner, self._row_image * columns + self._row_category)
        return int((real & (best >= 0)).sum())


def _sparse(values: Int64[np.ndarray, " n"], where: tuple[np.ndarray, np.ndarray], shape: tuple[int, ...]) -> csr_array:
    return csr_array(coo_array((values, where), shape=shape))


def _sums(index: Integer[np.ndarray, " n"], values: Integer[np.ndarray, " n"], size: int) -> Int64[np.ndarray, " size"]:
    """Sum integers by index, exactly (float64 holds whole numbers up to 2^53)."""
    return np.bincount(index, weights=values, minlength=size).astype(np.int64)
