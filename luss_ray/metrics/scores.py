"""The benchmark's numbers, from integer counts."""

import math
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from luss_ray.core.errors import UserError

REGION, BOUNDARY = range(2)
PREDICTED, TRUTH, BOTH = range(3)
SIZE_LIMITS_PERCENT = (5.0, 25.0, 50.0)
NUM_PARTS = 2 + len(SIZE_LIMITS_PERCENT)
F_UNIT = 1 << 40
"""F measures are summed as whole multiples of 1/F_UNIT, so the sum is the same in any order."""


@dataclass(frozen=True)
class Scores:
    """The scores of one set of predictions, in percent; NaN where nothing was there to score."""

    miou: float
    """Mean IoU over all categories and other; an absent category counts as 0."""
    acc: float
    """Share of images whose most frequent predicted category occurs in the ground truth."""
    f: float
    """Mean F measure of foreground against other."""
    mbiou: float
    """Mean IoU of the boundaries; NaN when they were not counted."""
    s: float
    """Mean IoU of categories that fill at most 5% of an image, over those present."""
    ms: float
    """The same, 5% to 25%."""
    ml: float
    """The same, 25% to 50%."""
    l: float  # noqa: E741
    """The same, more than 50%."""
    bs: float
    bms: float
    bml: float
    bl: float
    """`bs` to `bl`: the size buckets' IoU of boundaries."""
    ious: tuple[float, ...]
    """IoU of each category, other first; N + 1 of them."""
    num_images: int

    def to_json(self) -> dict:
        """Return the fields as JSON values, null for NaN."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["ious"] = [_number_or_none(iou) for iou in self.ious]
        return {name: _number_or_none(value) if isinstance(value, float) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: dict) -> "Scores":
        """Return the scores that `to_json` wrote."""
        nan = {name: math.nan if value is None else value for name, value in values.items()}
        return cls(**{**nan, "ious": tuple(math.nan if iou is None else iou for iou in values["ious"])})


def _number_or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def empty_counts(num_categories: int) -> Int64[np.ndarray, "2 3 parts categories"]:
    """Return zeroed pixel counts: (region, boundary) x (predicted, truth, both) x (all, S, MS, ML, L) x (other, 1..N).

    Args:
        num_categories: N, 1 to 999: a mask's id 1000 says "ignore".

    Raises:
        UserError: more categories than the masks can tell apart.
    """
    if not 1 <= num_categories < 1000:
        raise UserError(f"num_categories is {num_categories}: give 1 to 999, as id 1000 in a mask means ignore")
    return np.zeros((2, 3, NUM_PARTS, num_categories + 1), np.int64)


def scores_from_counts(
    counts: Int64[np.ndarray, "2 3 parts categories"],
    *,
    num_images: int,
    num_correct: int,
    f_units: int,
    boundary: bool,
) -> Scores:
    """Return the scores of summed counts.

    Args:
        counts: laid out as `empty_counts` says.
        num_images: images counted.
        num_correct: those whose most frequent predicted category is in the ground truth.
        f_units: sum of F measures in multiples of 1/F_UNIT.
        boundary: whether boundaries were counted; their scores are NaN otherwise.

    Raises:
        UserError: no image was counted.
    """
    if not num_images:
        raise UserError("no image was evaluated: check that the split has masks and that predictions exist for it")
    predicted, truth, both = counts[:, PREDICTED], counts[:, TRUTH], counts[:, BOTH]
    ious = 100 * both / (predicted + truth - both + 1e-10)
    means = [[_mean(iou[count > 0]) for iou, count in zip(ious[k, 1:], truth[k, 1:], strict=True)] for k in range(2)]
    if not boundary:
        means[BOUNDARY] = [math.nan] * 4
    return Scores(
        float(ious[REGION, 0].mean()),
        100 * num_correct / num_images,
        100 * f_units / F_UNIT / num_images,
        float(ious[BOUNDARY, 0].mean()) if boundary else math.nan,
        *means[REGION],
        *means[BOUNDARY],
        ious=tuple(ious[REGION, 0].tolist()),
        num_images=num_images,
    )


def _mean(values: Float[np.ndarray, " n"]) -> float:
    return float(values.mean()) if len(values) else math.nan


def size_members(
    categories: Integer[np.ndarray, " G"], areas_px: Integer[np.ndarray, " G"]
) -> Bool[np.ndarray, "parts G"]:
    """Return which of an image's ground-truth classes belong to which part (all, S, MS, ML, L).

    A class's size is ceil(100 area / pixels) in float32, over pixels that are not ignored. Other joins every bucket
    that holds a class of this image.

    Args:
        categories: ids present, 0 = other.
        areas_px: pixels of each, at least 1.
    """
    size = np.ceil(np.float32(100) * areas_px.astype(np.float32) / np.float32(areas_px.sum() or 1))
    bucket = np.searchsorted(np.array(SIZE_LIMITS_PERCENT, np.float32), size)
    members = np.ones((NUM_PARTS, len(categories)), bool)
    foreground = categories > 0
    members[1:] = (bucket == np.arange(NUM_PARTS - 1)[:, None]) & foreground
    members[1:, ~foreground] = members[1:].any(axis=1, keepdims=True)
    return members


def f_measures(
    both: Integer[np.ndarray, "*n"], predicted: Integer[np.ndarray, "*n"], truth: Integer[np.ndarray, "*n"]
) -> Float[np.ndarray, "*n"]:
    """Return F = 1.3 p r / (0.3 p + r) of foreground against other, each in 0..1; 0 where nothing is shared.

    Args:
        both: pixels that are foreground on both sides.
        predicted: foreground pixels of the prediction.
        truth: foreground pixels of the ground truth.
    """
    precision, recall = both / np.maximum(predicted, 1), both / np.maximum(truth, 1)
    weighted = 0.3 * precision + recall
    return np.divide(1.3 * precision * recall, weighted, out=np.zeros_like(weighted), where=both > 0)


def f_units(values: Float[np.ndarray, "*n"]) -> int:
    """Return the sum of F measures in whole multiples of 1/F_UNIT."""
    return int(np.rint(np.asarray(values) * F_UNIT).astype(np.int64).sum())
