from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from luss_ray.core.errors import UserError
from luss_ray.metrics.runs import find_runs, mask_rows


@given(st.data())
def test_runs_are_the_image_and_no_longer_than_they_must_be(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 9)))
    ids = st.sampled_from([0, 1, 300, 1000])
    maps = [data.draw(arrays(kind, shape, elements=ids)) for kind in (np.uint16, np.int64)]
    maps += [data.draw(arrays(bool, shape)) for _ in range(2)]
    runs = find_runs(*maps)
    for run_values, pixels in zip(runs, maps, strict=False):
        np.testing.assert_array_equal(np.repeat(run_values, runs.pixels), pixels.ravel())
    neighbours = pairwise(zip(*(values.tolist() for values in runs[:4]), strict=True))
    assert all(one != following for one, following in neighbours)


def test_rows_number_the_categories_present() -> None:
    categories, rows = mask_rows(np.array([7, 0, 1000, 7, 3]), 9)
    assert categories.tolist() == [0, 3, 7] and rows.tolist() == [2, 0, 3, 2, 1]


@pytest.mark.parametrize("wrong", [10, 999, 1001, 65535])
def test_ids_that_are_no_category_are_refused(wrong: int) -> None:
    with pytest.raises(UserError, match=f"id {wrong} but there are 9 categories"):
        mask_rows(np.array([wrong, 0]), 9)
