"""Scores against the published toolbox's own numbers, and against what the definitions say on small maps."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luss_ray.core.errors import UserError
from luss_ray.imagenet_s.masks import decode
from luss_ray.metrics.matching import apply_mapping
from luss_ray.metrics.scores import F_UNIT, Scores
from luss_ray.metrics.segmentation import SegmentationCounts

CASES = (
    *("e50_mixed", "e50_permuted", "e50_merged", "e50_identity", "e50_allbg", "e50_noise", "e50_edge"),
    *("e50_outofrange", "e300_mixed", "e919_highids", "e919_wide"),
)
BUCKETS = ("S", "MS", "ML", "L", "BS", "BMS", "BML", "BL")
FIELDS = {"Acc": "acc", "mIoU": "miou", "mBIoU": "mbiou", "FMeasure": "f"} | {b: b.lower() for b in BUCKETS}


def read_ids(path: Path) -> np.ndarray:
    return decode(path.read_bytes())


def read_pairs(case: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    names = [line.split()[1] for line in (case / "names.txt").read_text().splitlines()]
    return [(read_ids(case / "validation" / n), read_ids(case / "validation-segmentation" / n)) for n in names]


def assert_scores(scores: Scores, expected: dict, tolerance: float = 1e-3) -> None:
    for name, field in FIELDS.items():
        value = math.nan if expected[name] is None else expected[name]
        assert getattr(scores, field) == pytest.approx(value, abs=tolerance, nan_ok=True), name
    if "IoUs" in expected:
        np.testing.assert_allclose(scores.ious, expected["IoUs"], atol=tolerance)


def assert_counts(counts: np.ndarray, expected: dict) -> None:
    for kind, prefix in enumerate(("", "B")):
        for which, letters in enumerate(("T", "P", "TP")):
            np.testing.assert_array_equal(counts[kind, which, 0], expected[prefix + letters])
            np.testing.assert_array_equal(counts[kind, which, 1:], expected[f"{prefix}{letters}s"])


@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_evaluator(golden: Path, name: str) -> None:
    case = golden / "eval" / name
    expected = json.loads((case / "expected.json").read_text())
    num_categories = expected["num_classes"]
    mapping = np.arange(num_categories + 1)
    if expected["with_match"]:
        pairs = json.loads((case / expected["match_file"]).read_text())
        mapping = np.array([int(pairs[str(cluster)]) for cluster in range(num_categories + 1)])
    plain, matched, before = (SegmentationCounts(num_categories) for _ in range(3))
    f_images = []
    for prediction, mask in read_pairs(case):
        f_before = plain.f_units
        plain.update(prediction, mask)
        f_images.append((plain.f_units - f_before) / F_UNIT)
        if expected["with_match"]:
            matched.update(prediction, mask, mapping=mapping)
            before.update(apply_mapping(prediction, mapping), mask)
    accumulated = np.load(case / "accum_no_match.npz")
    assert_counts(plain.counts, accumulated)
    np.testing.assert_allclose(f_images, accumulated["F"], atol=1e-6)
    assert_scores(plain.compute(), expected["no_match"])
    if expected["with_match"]:
        assert_counts(matched.counts, np.load(case / "accum_with_match.npz"))
        assert_scores(matched.compute(), expected["with_match"])
        np.testing.assert_array_equal(matched.counts, before.counts)


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
