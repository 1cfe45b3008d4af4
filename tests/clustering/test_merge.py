import numpy as np
import pytest
import scipy.cluster.hierarchy
from hypothesis import given, settings
from hypothesis import strategies as st

from luss_ray.clustering.merge import merge_clusters


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.data())
def test_groups_are_those_of_ward(seed: int, num: int, data: st.DataObject) -> None:
    """Clusters of one row each: SciPy's Ward linkage, which knows no sizes, is the oracle."""
    rows = np.random.default_rng(seed).normal(size=(num, 5))
    wanted = data.draw(st.integers(1, num))
    groups = merge_clusters(rows, np.ones(num, np.int64), wanted)
    expected = scipy.cluster.hierarchy.cut_tree(scipy.cluster.hierarchy.ward(rows), wanted)[:, 0]
    assert sorted(set(groups)) == list(range(wanted))
    assert (groups[:, None] == groups).tolist() == (expected[:, None] == expected).tolist()


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_sizes_count_as_so_many_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, sizes = rng.normal(size=(12, 4)), rng.integers(1, 6, 12)
    copies = np.repeat(np.arange(12), sizes)
    groups = merge_clusters(rows, sizes, 4)
    expected = scipy.cluster.hierarchy.cut_tree(scipy.cluster.hierarchy.ward(rows[copies]), 4)[:, 0]
    whole = groups[copies]
    assert (whole[:, None] == whole).tolist() == (expected[:, None] == expected).tolist()


@pytest.mark.parametrize("sizes", [[0, 3, 0, 5], [0, 0, 0, 0]])
def test_empty_clusters_join_something(sizes: list[int]) -> None:
    groups = merge_clusters(np.eye(4), np.array(sizes), 2)
    assert set(groups.tolist()) == {0, 1}
