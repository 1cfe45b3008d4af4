import numpy as np
import pytest

from luss_ray.metrics.scores import (
    BOTH,
    F_UNIT,
    PREDICTED,
    REGION,
    TRUTH,
    empty_counts,
    f_measures,
    f_units,
    scores_from_counts,
    size_members,
)


def test_sizes_at_the_limits() -> None:
    """5%, 25% and 50% belong to the smaller bucket; a class's share is rounded up to whole percents."""
    categories, areas = np.array([0, 1, 2, 3, 4]), np.array([1000, 500, 501, 2499, 5500])
    members = size_members(categories, areas)
    assert members[0].all()
    assert members[1:, 1:].astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert members[1:, 0].tolist() == [True, True, False, True], "other joins the buckets that hold a class"


def test_sizes_of_an_image_of_other_or_nothing() -> None:
    assert size_members(np.array([0]), np.array([50])).tolist() == [[True], [False], [False], [False], [False]]
    assert size_members(np.zeros(0, int), np.zeros(0, int)).shape == (5, 0)


def test_f_measure() -> None:
    both, predicted, truth = np.array([30, 0, 0, 10]), np.array([60, 5, 0, 10]), np.array([40, 0, 0, 10])
    expected = 1.3 * 0.5 * 0.75 / (0.3 * 0.5 + 0.75)
    np.testing.assert_allclose(f_measures(both, predicted, truth), [expected, 0, 0, 1])


def test_the_sum_of_f_measures_is_the_same_in_any_order() -> None:
    values = np.random.default_rng(0).random(1000)
    assert f_units(values) == f_units(values[::-1]) == sum(f_units(values[n : n + 1]) for n in range(1000))
    assert f_units(values) / F_UNIT == pytest.approx(values.sum(), abs=1e-9)


def test_absent_categories_count_0_overall_and_not_at_all_in_buckets() -> None:
    counts = empty_counts(3)
    counts[REGION, PREDICTED, :2, :2] = counts[REGION, TRUTH, :2, :2] = counts[REGION, BOTH, :2, :2] = 10
    scores = scores_from_counts(counts, num_images=1, num_correct=1, f_units=F_UNIT, boundary=False)
    assert scores.miou == pytest.approx(50) and scores.s == pytest.approx(100)
    assert np.isnan([scores.ms, scores.l, scores.mbiou]).all()
    assert (scores.acc, scores.f) == (100, 100)
