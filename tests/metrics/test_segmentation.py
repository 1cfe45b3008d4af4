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


def near_the_edge(ids: np.ndarray) -> np.ndarray:
    """Pixel by pixel: an id that differs, or the outside, lies within the boundary width."""
    width = max(1, round(0.03 * math.hypot(*ids.shape)))
    padded = np.pad(ids.astype(int), width, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * width + 1, 2 * width + 1))
    return (windows != ids[..., None, None]).any(axis=(2, 3))


def mean_iou(pairs: list[tuple[int, int, int]], present_only: bool) -> float:
    """The mean over (predicted, truth, both) of each class."""
    kept = [pair for pair in pairs if pair[1] or not present_only]
    ious = [100 * both / (predicted + truth - both + 1e-10) for predicted, truth, both in kept]
    return sum(ious) / len(ious) if ious else math.nan


def naive_scores(images: list[tuple[np.ndarray, np.ndarray]], num_categories: int) -> dict[str, float]:
    """The definitions, one class, bucket and image at a time."""
    names = {"region": ("miou", "s", "ms", "ml", "l"), "boundary": ("mbiou", "bs", "bms", "bml", "bl")}
    ids = range(num_categories + 1)
    totals = {name: np.zeros((len(ids), 3), int) for pair in names.values() for name in pair}
    correct, f = 0, 0.0
    for prediction, mask in images:
        kept = mask != 1000
        sizes = {c: math.ceil(np.float32(100) * (mask == c).sum() / np.float32(kept.sum())) for c in set(mask[kept])}
        votes = {c: ((prediction == c) & kept).sum() for c in ids if c and ((prediction == c) & kept).any()}
        correct += bool(votes) and max(votes, key=lambda c: (votes[c], -c)) in sizes
        found, real = (prediction > 0) & kept, (mask > 0) & kept
        p, r = (found & real).sum() / max(found.sum(), 1), (found & real).sum() / max(real.sum(), 1)
        f += 1.3 * p * r / (0.3 * p + r) if p + r else 0
        for kind, buckets in names.items():
            edges = [near_the_edge(m) if kind == "boundary" else np.ones(m.shape, bool) for m in (prediction, mask)]
            for name, low, high in zip(buckets, (None, 0, 5, 25, 50), (None, 5, 25, 50, 100), strict=True):
                chosen = {c for c, size in sizes.items() if low is None or (c and low < size <= high)}
                seen = kept & np.isin(mask, [*chosen, 0]) if chosen else np.zeros_like(kept)
                for c in ids:
                    a, b = (prediction == c) & edges[0] & seen, (mask == c) & edges[1] & seen
                    totals[name][c] += a.sum(), b.sum(), (a & b).sum()
    means = {name: mean_iou(pairs.tolist(), name not in ("miou", "mbiou")) for name, pairs in totals.items()}
    return means | {"acc": 100 * correct / len(images), "f": 100 * f / len(images)}


@settings(max_examples=40)
@given(st.data())
def test_scores_are_what_a_naive_loop_over_the_definitions_gives(data: st.DataObject) -> None:
    num_categories = data.draw(st.integers(1, 5))
    seeds = data.draw(st.lists(st.integers(0, 10_000), min_size=1, max_size=3))
    images, counts = [], SegmentationCounts(num_categories)
    for seed in seeds:
        shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
        # One id in predictions is beyond the categories.
        prediction, mask = blobs(seed, num_categories + 1, shape), blobs(seed + 1, num_categories, shape)
        mask.flat[: data.draw(st.integers(0, mask.size - 1))] = 1000
        images.append((prediction, mask))
        counts.update(prediction, mask)
    scores = counts.compute().to_json()
    for name, expected in naive_scores(images, num_categories).items():
        value = math.nan if scores[name] is None else scores[name]
        assert value == pytest.approx(expected, abs=1e-6, nan_ok=True), name


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
