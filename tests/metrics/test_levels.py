import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from luss_ray.metrics.curve import PUBLISHED_THRESHOLDS
from luss_ray.metrics.levels import Levels

NUMBERS = st.floats(-2, 2, width=32) | st.sampled_from([np.float32(i / 100) for i in range(101)])


@given(
    st.lists(NUMBERS, min_size=1, max_size=20, unique=True).map(sorted) | st.just(list(PUBLISHED_THRESHOLDS)),
    arrays(np.float32, (3, 7), elements=NUMBERS | st.just(np.float32(np.nan))),
)
def test_a_level_is_reached_unless_the_value_is_below_it(levels: list[float], values: np.ndarray) -> None:
    limits = np.array(levels, np.float32)
    np.testing.assert_array_equal(Levels(limits).reached(values), (~(values[..., None] < limits)).sum(axis=-1))
