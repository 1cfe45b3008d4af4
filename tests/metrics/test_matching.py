import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from luss_ray.core.errors import UserError
from luss_ray.metrics.matching import (
    MatchingCounts,
    apply_mapping,
    hungarian,
    match_by_images,
    match_by_pixels,
    match_many_to_one,
    matching_total,
)


def test_equals_the_published_multi_label_matching(golden: Path) -> None:
    stored = np.load(golden / "method" / "cluster.npz")
    counts = stored["multi_cluster"].astype(int).T @ stored["multi_target"].astype(int)
    assert matching_total(counts, hungarian(counts)) == matching_total(counts, np.append(0, stored["multi_match"] + 1))


@settings(max_examples=30)
@given(arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.integers(0, 9)))
def test_hungarian_is_the_best_one_to_one_mapping(counts: np.ndarray) -> None:
    mapping = hungarian(counts)
    matched = mapping[mapping > 0]
    assert mapping[0] == 0 and len(set(matched)) == len(matched) == min(counts.shape)
    wide = counts if counts.shape[0] <= counts.shape[1] else counts.T
    best = max(
        wide[np.arange(len(wide)), list(p)].sum() for p in itertools.permutations(range(wide.shape[1]), len(wide))
    )
    assert matching_total(counts, mapping) == best


def example() -> MatchingCounts:
    """Cluster 1 is 30 px of category 1, cluster 2 is 20 px of it and 1 px of category 2, cluster 3 meets only other."""
    prediction, mask = np.zeros((10, 10), np.uint16), np.zeros((10, 10), np.uint16)
    prediction[:3], mask[:5], prediction[3:5] = 1, 1, 2
    prediction[5, :2], mask[5, 0], mask[5, 1] = 2, 2, 1000
    prediction[9] = 3
    counts = MatchingCounts(3, 2)
    counts.update(prediction, mask)
    return counts


def test_images_count_presence_without_overlap_pixels_count_overlap() -> None:
    counts = example()
    assert counts.images.tolist() == [[1, 1], [1, 1], [1, 1]]
    assert counts.pixels.tolist() == [[30, 0], [20, 1], [0, 0]]


def test_alternatives_differ_from_the_benchmarks_matching() -> None:
    counts = example()
    assert match_by_pixels(counts).tolist() == [0, 1, 2, 0]
    assert match_many_to_one(counts).tolist() == [0, 1, 1, 0]
    assert sorted(match_by_images(counts)[1:]) == [0, 1, 2]


def test_merged_counts_are_the_counts_of_all() -> None:
    total = example() + example()
    assert total.images.tolist() == (2 * example().images).tolist()
    assert total.pixels.tolist() == (2 * example().pixels).tolist()


def test_ignored_pixels_and_clusters_out_of_range_are_left_out() -> None:
    counts = MatchingCounts(2, 2)
    counts.update(np.array([[1, 2, 9]], np.uint16), np.array([[1000, 2, 1]], np.uint16))
    assert counts.images.tolist() == [[0, 0], [1, 1]]


def test_apply_mapping_renames_and_refuses_unknown_clusters() -> None:
    labels = np.array([[0, 1, 2]], np.uint16)
    assert apply_mapping(labels, np.array([0, 2, 0])).tolist() == [[0, 2, 0]]
    with pytest.raises(UserError, match="label 2 has no entry"):
        apply_mapping(labels, np.array([0, 1]))


def test_user_errors_name_the_remedy() -> None:
    with pytest.raises(UserError, match="masks of this dataset"):
        MatchingCounts(2, 2).update(np.zeros((2, 2), np.uint16), np.full((2, 2), 3, np.uint16))
    with pytest.raises(UserError, match="mask's size"):
        MatchingCounts(2, 2).update(np.zeros((2, 2), np.uint16), np.zeros((2, 3), np.uint16))
