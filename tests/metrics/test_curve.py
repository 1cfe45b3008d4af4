"""The one-pass curve against the published numbers and against one evaluation a threshold."""

import json
import math
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from luss_ray.core.errors import UserError
from luss_ray.metrics.curve import ThresholdCurve
from luss_ray.metrics.matching import (
    MatchingCounts,
    apply_mapping,
    match_by_pixels,
    match_many_to_one,
    matching_total,
)
from luss_ray.metrics.segmentation import SegmentationCounts

COARSE = (0.0, 0.1, 0.25, 0.5, 0.75)


def random_image(seed: int, num_clusters: int, num_categories: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocky labels and mask (with ignored pixels), smooth attention in hundredths, so that it meets thresholds."""
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(50, 80)), int(rng.integers(40, 90)))
    labels = cv2.resize(rng.integers(0, num_clusters + 1, (4, 5)).astype(np.uint16), size, interpolation=0)
    mask = cv2.resize(rng.integers(0, num_categories + 1, (3, 3)).astype(np.uint16), size, interpolation=0)
    mask[: rng.integers(0, 12)] = 1000
    attention = np.round(cv2.resize(rng.random((5, 5)).astype(np.float32), size), 2)
    return labels, attention, mask


def score_each_threshold(images: list, curve: ThresholdCurve, mappings: np.ndarray) -> list[SegmentationCounts]:
    """Threshold, map and evaluate every image at every threshold, as the definition says."""
    counts = [SegmentationCounts(curve.num_categories, curve.boundary) for _ in curve.thresholds]
    for (labels, attention, mask), (level, threshold) in (
        (image, level) for level in enumerate(curve.thresholds) for image in images
    ):
        kept = np.where(attention < np.float32(threshold), np.uint16(0), labels)
        counts[level].update(kept, mask, mapping=mappings[level])
    return counts


@pytest.mark.parametrize(("num_clusters", "num_categories"), [(4, 4), (7, 4), (3, 5)])
def test_equals_one_evaluation_a_threshold(num_clusters: int, num_categories: int) -> None:
    images = [random_image(seed, num_clusters, num_categories) for seed in range(6)]
    curve = ThresholdCurve(num_categories, num_clusters, COARSE)
    for image in images:
        curve.update(*image)
    answer = curve.compute()
    for scores, counts in zip(answer.scores, score_each_threshold(images, curve, answer.mappings), strict=True):
        assert json.dumps(scores.to_json()) == json.dumps(counts.compute().to_json())
    for level, threshold in enumerate(COARSE):
        matching = MatchingCounts(num_clusters, num_categories)
        for labels, attention, mask in images:
            matching.update(np.where(attention < np.float32(threshold), np.uint16(0), labels), mask)
        assert matching_total(matching.images, answer.mappings[level]) == answer.matching_totals[level]


def test_clusters_without_a_category_count_as_other() -> None:
    labels, attention, mask = np.array([[1, 2]]), np.ones((1, 2), np.float32), np.array([[1, 0]])
    curve = ThresholdCurve(1, 2, (0.5,), boundary=False)
    curve.update(labels, attention, mask)
    (scores,) = curve.compute(mappings=np.array([[0, 1, 0]])).scores
    assert scores.miou == pytest.approx(100) and scores.f == pytest.approx(100) and math.isnan(scores.mbiou)


def test_several_clusters_of_one_category_vote_together() -> None:
    labels = np.array([[1, 1, 2, 2, 3, 3, 3]])
    curve = ThresholdCurve(2, 3, (0.0,), boundary=False)
    curve.update(labels, np.ones(labels.shape, np.float32), np.full(labels.shape, 1))
    assert curve.compute(mappings=np.array([[0, 1, 1, 2]])).scores[0].acc == 100


def test_missing_attention_is_scored_as_it_is_and_matched_at_zero_only() -> None:
    labels, mask = np.array([[1, 1, 2]]), np.array([[2, 2, 0]])
    curve = ThresholdCurve(2, None, (0.0, 0.5), boundary=False)
    curve.update(labels, None, mask)
    answer = curve.compute(mappings=np.array([[0, 2, 1]] * 2))
    assert answer.matching_totals.tolist() == [1, 0]
    assert answer.scores[0].ious == answer.scores[1].ious and answer.scores[0].acc == 100


@pytest.mark.parametrize("boundary", [True, False])
def test_workers_counts_merge_through_arrays_in_any_order(boundary: bool, tmp_path: Path) -> None:
    images = [random_image(seed, 4, 4) for seed in range(6)]
    whole, parts = (
        ThresholdCurve(4, None, COARSE, boundary),
        [ThresholdCurve(4, None, COARSE, boundary) for _ in range(3)],
    )
    for number, image in enumerate(images):
        whole.update(*image)
        parts[number % 2].update(*image)
    np.savez(tmp_path / "part.npz", allow_pickle=False, **parts[1].to_arrays())
    restored = ThresholdCurve(4, None, COARSE, boundary)
    with np.load(tmp_path / "part.npz") as arrays:
        restored.add_arrays(dict(arrays))
    restored.add_arrays(parts[2].to_arrays())
    restored += parts[0]
    answer, expected = restored.compute(), whole.compute()
    assert json.dumps([s.to_json() for s in answer.scores]) == json.dumps([s.to_json() for s in expected.scores])
    np.testing.assert_array_equal(answer.mappings, expected.mappings)


def test_the_first_of_equal_maxima_is_best() -> None:
    curve = ThresholdCurve(1, None, COARSE, boundary=False)
    curve.update(np.ones((4, 4), np.uint16), np.full((4, 4), 0.3, np.float32), np.ones((4, 4), np.uint16))
    assert curve.compute().best_threshold == 0.0


def test_all_ignored_and_one_pixel_images_count() -> None:
    curve = ThresholdCurve(2, None, COARSE)
    curve.update(np.ones((3, 3), np.uint16), np.ones((3, 3), np.float32), np.full((3, 3), 1000, np.uint16))
    curve.update(np.ones((1, 1), np.uint16), np.ones((1, 1), np.float16), np.ones((1, 1), np.uint16))
    assert curve.compute().scores[0].acc == 50 and curve.compute().scores[0].num_images == 2


def test_user_errors_name_the_remedy() -> None:
    curve, ones = ThresholdCurve(2), np.ones((2, 2), np.uint16)
    with pytest.raises(UserError, match="no image was evaluated"):
        curve.compute()
    with pytest.raises(UserError, match="make them one size"):
        curve.update(ones, np.ones((2, 3), np.float32), ones)
    with pytest.raises(UserError, match="set num_clusters"):
        curve.update(3 * ones, np.ones((2, 2), np.float32), ones)
    with pytest.raises(UserError, match="ascending"):
        ThresholdCurve(2, None, (0.5, 0.1))


def test_mapping_is_applied_like_the_evaluators() -> None:
    """One-to-one mapping: the curve at 0 is the plain evaluation of the mapped labels."""
    labels, attention, mask = random_image(3, 4, 4)
    curve, counts = ThresholdCurve(4, None, (0.0,)), SegmentationCounts(4)
    curve.update(labels, attention, mask)
    answer = curve.compute()
    counts.update(apply_mapping(labels, answer.mappings[0]), mask)
    assert json.dumps(answer.scores[0].to_json()) == json.dumps(counts.compute().to_json())


def test_more_images_than_a_block_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts that went through temporary files, and a pickle, answer as those in memory."""
    expected = ThresholdCurve(4, None, COARSE)
    images = [random_image(seed, 4, 4) for seed in range(7)]
    for image in images:
        expected.update(*image)
    monkeypatch.setattr("luss_ray.metrics.image_store.BLOCK_IMAGES", 3)
    spilled = ThresholdCurve(4, None, COARSE)
    for image in images:
        spilled.update(*image)
    assert [len(block) for block in spilled.images.blocks()] == [3, 3, 1]
    for curve in (spilled, pickle.loads(pickle.dumps(spilled))):
        answer = curve.compute()
        assert json.dumps([s.to_json() for s in answer.scores]) == json.dumps(
            [s.to_json() for s in expected.compute().scores]
        )
        np.testing.assert_array_equal(answer.mappings, expected.compute().mappings)


def test_other_matchings_at_each_threshold() -> None:
    labels, mask = np.array([[1, 1, 1, 2, 2, 3]]), np.array([[1, 1, 2, 2, 2, 2]])
    curve = ThresholdCurve(2, 3, (0.0,), boundary=False)
    curve.update(labels, np.ones(labels.shape, np.float32), mask)
    assert curve.compute(match=match_many_to_one).mappings.tolist() == [[0, 1, 2, 2]]
    assert curve.compute(match=match_by_pixels).matching_totals.tolist() == [2]
