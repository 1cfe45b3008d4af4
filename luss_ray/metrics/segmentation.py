"""The benchmark's evaluation of label maps: counts that add up over images and workers, exactly."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64, Integer

from luss_ray.core.errors import UserError
from luss_ray.metrics.boundaries import boundary_mask
from luss_ray.metrics.matching import apply_mapping
from luss_ray.metrics.runs import Runs, find_runs, mask_rows
from luss_ray.metrics.scores import (
    BOTH,
    BOUNDARY,
    PREDICTED,
    REGION,
    TRUTH,
    Scores,
    empty_counts,
    f_measures,
    f_units,
    scores_from_counts,
    size_members,
)


@dataclass
class SegmentationCounts:
    """Integer counts of predictions against masks, from which every score follows; `+` merges workers' counts.

    Args:
        num_categories: N; ids are 0 (other), 1..N.
        boundary: count boundaries too (about two thirds of the work).

    Source: ImageNet-S (arXiv 2106.03149), section on evaluation. Sums are int64 where the authors' are float32.
    """

    num_categories: int
    boundary: bool = True
    counts: Int64[np.ndarray, "2 3 parts categories"] = field(init=False, repr=False)
    num_images: int = field(default=0, init=False)
    num_correct: int = field(default=0, init=False)
    f_units: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.counts = empty_counts(self.num_categories)

    def update(
        self,
        prediction: Integer[np.ndarray, "H W"],
        mask: Integer[np.ndarray, "H1 W1"],
        *,
        mapping: Integer[np.ndarray, " clusters"] | None = None,
    ) -> None:
        """Count one image; both have one size.

        Args:
            prediction: 0..65535; ids above N are missing from their area but are foreground in F.
            mask: ground truth, 0 = other, 1..N, 1000 = ignore.
            mapping: cluster -> category, 0 -> 0. Given here, boundaries are those of the clusters, as the benchmark's
                toolbox makes them; apply `apply_mapping` beforehand for those of the categories, as PASS makes
                them. One-to-one mappings give the same scores either way.

        Raises:
            UserError: sizes differ, or the mask holds an id that is no category.
        """
        if prediction.shape != mask.shape:
            raise UserError(
                f"prediction is {prediction.shape} and mask {mask.shape} (height, width): predict at the mask's size"
            )
        edges = [boundary_mask(ids) if self.boundary else np.zeros(ids.shape, bool) for ids in (prediction, mask)]
        runs = find_runs(prediction, mask, *edges)
        if mapping is not None:
            runs = runs._replace(labels=apply_mapping(runs.labels, mapping))
        self._add(*self._joint(runs))

    def _joint(self, runs: Runs) -> tuple[Integer[np.ndarray, " G"], Int64[np.ndarray, "G 2 2 columns"]]:
        """Categories; pixels by category, on the prediction's boundary, on the mask's, label (N + 1: out of range)."""
        categories, rows = mask_rows(runs.mask, self.num_categories)
        shape = (len(categories) + 1, 2, 2, self.num_categories + 2)
        places = (rows, runs.label_edge, runs.mask_edge, np.minimum(runs.labels, self.num_categories + 1))
        codes = np.ravel_multi_index([place.astype(np.intp, copy=False) for place in places], shape)
        table = np.bincount(codes, weights=runs.pixels, minlength=int(np.prod(shape)))
        return categories, table.astype(np.int64).reshape(shape)[:-1]

    def _add(self, categories: Integer[np.ndarray, " G"], table: Int64[np.ndarray, "G 2 2 columns"]) -> None:
        region = table.sum(axis=(1, 2))
        members = size_members(categories, region.sum(axis=1)).astype(np.int64)
        tables = [(REGION, region, region, region)]
        if self.boundary:
            tables.append((BOUNDARY, table[:, 1].sum(axis=1), table[:, :, 1].sum(axis=1), table[:, 1, 1]))
        for kind, predicted, truth, both in tables:
            self.counts[kind, PREDICTED] += members @ predicted[:, :-1]
            self.counts[kind, TRUTH][:, categories] += members * truth.sum(axis=1)
            self.counts[kind, BOTH][:, categories] += members * both[np.arange(len(categories)), categories]
        foreground = categories > 0
        votes = region[:, 1:-1].sum(axis=0)
        self.num_correct += bool(votes.any() and votes.argmax() + 1 in categories)
        areas = region[foreground, 1:].sum(), region[:, 1:].sum(), region[foreground].sum()
        self.f_units += f_units(f_measures(*(np.array([area]) for area in areas)))
        self.num_images += 1

    def __add__(self, other: "SegmentationCounts") -> "SegmentationCounts":
        assert (self.num_categories, self.boundary) == (other.num_categories, other.boundary)
        total = SegmentationCounts(self.num_categories, self.boundary)
        total.counts = self.counts + other.counts
        total.num_images = self.num_images + other.num_images
        total.num_correct = self.num_correct + other.num_correct
        total.f_units = self.f_units + other.f_units
        return total

    def compute(self) -> Scores:
        """Return the scores of the images counted so far.

        Raises:
            UserError: no image was counted.
        """
        return scores_from_counts(
            self.counts,
            num_images=self.num_images,
            num_correct=self.num_correct,
            f_units=self.f_units,
            boundary=self.boundary,
        )
