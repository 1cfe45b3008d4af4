"""Clusters to categories: which cluster is scored as which category."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64, Integer
from scipy.optimize import linear_sum_assignment

from luss_ray.core.errors import UserError
from luss_ray.imagenet_s.masks import IGNORE


@dataclass
class MatchingCounts:
    """What cluster met what category, by images and by pixels; `+` merges workers' counts.

    Args:
        num_clusters: C; clusters are 1..C in a prediction, 0 is other. Ids above C are left out, as the benchmark does.
        num_categories: N; may differ from C.
    """

    num_clusters: int
    num_categories: int
    images: Int64[np.ndarray, "C N"] = field(init=False, repr=False)
    """Number of images whose prediction holds the cluster and whose mask holds the category, ignored pixels aside."""
    pixels: Int64[np.ndarray, "C N"] = field(init=False, repr=False)
    """Number of pixels of both."""

    def __post_init__(self) -> None:
        self.images = np.zeros((self.num_clusters, self.num_categories), np.int64)
        self.pixels = np.zeros_like(self.images)

    def update(self, prediction: Integer[np.ndarray, "H W"], mask: Integer[np.ndarray, "H1 W1"]) -> None:
        """Count one image; both have one size.

        Args:
            prediction: cluster ids.
            mask: ground truth, 0 = other, 1..N, 1000 = ignore.

        Raises:
            UserError: sizes differ, or the mask holds an id that is no category.
        """
        if prediction.shape != mask.shape:
            raise UserError(
                f"prediction is {prediction.shape} and mask {mask.shape} (height, width): predict at the mask's size"
            )
        kept = mask != IGNORE
        truth, clusters = mask[kept].astype(np.intp), np.minimum(prediction[kept], self.num_clusters + 1)
        if truth.size and truth.max() > self.num_categories:
            raise UserError(
                f"a mask holds id {truth.max()} but there are {self.num_categories} categories: "
                "use the masks of this dataset"
            )
        shape = (self.num_categories + 1, self.num_clusters + 2)
        joint = np.bincount(truth * shape[1] + clusters, minlength=shape[0] * shape[1]).reshape(shape)
        present, truth_present = (joint.sum(axis=0) > 0)[1:-1], (joint.sum(axis=1) > 0)[1:]
        self.images[np.ix_(present, truth_present)] += 1
        self.pixels += joint[1:, 1:-1].T

    def __add__(self, other: "MatchingCounts") -> "MatchingCounts":
        assert self.images.shape == other.images.shape
        total = MatchingCounts(self.num_clusters, self.num_categories)
        total.images = self.images + other.images
        total.pixels = self.pixels + other.pixels
        return total


def match_by_images(counts: MatchingCounts) -> Int64[np.ndarray, " clusters"]:
    """Return the benchmark's mapping: one-to-one, with the most images in which cluster and category meet.

    Source: ImageNet-S (arXiv 2106.03149), matching. Optima tie often; compare `matching_total`, not mappings.
    """
    return hungarian(counts.images)


def match_by_pixels(counts: MatchingCounts) -> Int64[np.ndarray, " clusters"]:
    """Return the one-to-one mapping with the most shared pixels; not the benchmark's."""
    return hungarian(counts.pixels)


def match_many_to_one(counts: MatchingCounts) -> Int64[np.ndarray, " clusters"]:
    """Return each cluster's category of most shared pixels (several may share one); not the benchmark's.

    A cluster that meets no category maps to other.
    """
    best = counts.pixels.argmax(axis=1) + 1
    return np.concatenate([[0], np.where(counts.pixels.any(axis=1), best, 0)])


def hungarian(counts: Integer[np.ndarray, "C N"]) -> Int64[np.ndarray, " clusters"]:
    """Return the one-to-one mapping of clusters to categories with the largest total count.

    Args:
        counts: how often cluster c + 1 meets category n + 1.

    Returns:
        C + 1 entries: entry c is cluster c's category in 1..N; entry 0 is 0. With more clusters than categories the
        unmatched ones map to 0, other; with fewer, some categories stay unused.
    """
    rows, columns = linear_sum_assignment(counts, maximize=True)
    mapping = np.zeros(len(counts) + 1, np.int64)
    mapping[rows + 1] = columns + 1
    return mapping


def matching_total(counts: Integer[np.ndarray, "C N"], mapping: Integer[np.ndarray, " clusters"]) -> int:
    """Return the total count of a mapping's pairs: what `hungarian` maximises.

    Args:
        counts: how often cluster c + 1 meets category n + 1.
        mapping: C + 1 entries, 0 = unmatched.
    """
    matched = np.flatnonzero(mapping[1:])
    return int(counts[matched, mapping[1:][matched] - 1].sum())


def apply_mapping(
    labels: Integer[np.ndarray, "*shape"], mapping: Integer[np.ndarray, " clusters"]
) -> Integer[np.ndarray, "*shape"]:
    """Return cluster labels as category labels, uint16.

    Args:
        labels: 0..C.
        mapping: C + 1 entries, the first is 0.

    Raises:
        UserError: a label above C.
    """
    assert mapping[0] == 0, "other must stay other"
    if labels.size and labels.max() >= len(mapping):
        raise UserError(
            f"label {labels.max()} has no entry in a mapping of {len(mapping) - 1} clusters: "
            "match with the predictions that are scored"
        )
    return mapping.astype(np.uint16)[labels]
