"""Scores against the published toolbox's own numbers, and against what the definitions say on small maps."""

import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luss_ray.core.errors import UserError
from luss_ray.metrics.matching import apply_mapping
from luss_ray.metrics.scores import Scores
from luss_ray.metrics.segmentation import SegmentationCounts


def blobs(seed: int, num_categories: int, shape: tuple[int, int] = (40, 52)) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, num_categories + 1, (5, 6)).astype(np.uint16)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_NEAREST)


def brute_ious(prediction: np.ndarray, mask: np.ndarray, num_categories: int) -> list[float]:
    kept, ious = mask != 1000, []
    for category in range(num_categories + 1):
        a, b = (prediction == category) & kept, (mask == category) & kept
        ious.append(100 * (a & b).sum() / max((a | b).sum(), 1))
    return ious


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 600))
def test_ious_are_intersection_over_union(seed: int, num_categories: int, num_ignored: int) -> None:
    prediction, mask = blobs(seed, num_categories), blobs(seed + 1, num_categories)
    mask.flat[:num_ignored] = 1000
    counts = SegmentationCounts(num_categories, boundary=False)
    counts.update(prediction, mask)
    scores = counts.compute()
    np.testing.assert_allclose(scores.ious, brute_ious(prediction, mask, num_categories), atol=1e-6)
    assert scores.miou == pytest.approx(np.mean(scores.ious))
    assert math.isnan(scores.mbiou) and math.isnan(scores.bs)


def test_merged_counts_are_the_counts_of_all() -> None:
    whole, parts = SegmentationCounts(5), [SegmentationCounts(5) for _ in range(3)]
    for seed in range(9):
        for counts in (whole, parts[seed % 3]):
            counts.update(blobs(seed, 5), blobs(seed + 50, 5))
    merged = parts[2] + parts[0] + parts[1]
    assert merged.compute().to_json() == whole.compute().to_json()


def test_a_perfect_prediction_scores_100() -> None:
    counts = SegmentationCounts(3)
    counts.update(blobs(0, 3), blobs(0, 3))
    scores = counts.compute()
    assert (scores.miou, scores.mbiou, scores.acc, scores.f) == pytest.approx((100, 100, 100, 100))


def test_boundaries_of_clusters_or_of_categories() -> None:
    """Two clusters of one category keep the border between them when the mapping is applied after it was drawn."""
    prediction = np.ones((60, 60), np.uint16)
    prediction[:, 30:] = 2
    mask, mapping = np.ones((60, 60), np.uint16), np.array([0, 1, 1])
    toolbox, own = SegmentationCounts(2), SegmentationCounts(2)
    toolbox.update(prediction, mask, mapping=mapping)
    own.update(apply_mapping(prediction, mapping), mask)
    assert toolbox.compute().miou == own.compute().miou
    assert toolbox.compute().mbiou < own.compute().mbiou


def test_scores_survive_json() -> None:
    counts = SegmentationCounts(2)
    counts.update(np.zeros((4, 4), np.uint16), np.zeros((4, 4), np.uint16))
    text = json.dumps(counts.compute().to_json(), allow_nan=False)
    assert Scores.from_json(json.loads(text)).to_json() == counts.compute().to_json()


def test_user_errors_name_the_remedy() -> None:
    counts = SegmentationCounts(5)
    with pytest.raises(UserError, match="no image was evaluated"):
        counts.compute()
    with pytest.raises(UserError, match="mask's size"):
        counts.update(np.zeros((4, 4), np.uint16), np.zeros((4, 5), np.uint16))
    with pytest.raises(UserError, match="masks of this dataset"):
        counts.update(np.zeros((4, 4), np.uint16), np.full((4, 4), 77, np.uint16))
    with pytest.raises(UserError, match="1000"):
        SegmentationCounts(1000)
