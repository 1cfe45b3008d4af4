import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from luss_ray.metrics.boundaries import border_band, boundary_mask, boundary_width_px, window_extremes


def brute_boundary(labels: np.ndarray) -> np.ndarray:
    """Pixel by pixel: some pixel within the distance has another id or lies outside."""
    distance = boundary_width_px(*labels.shape)
    padded = np.pad(labels.astype(int), distance, constant_values=-1)
    out = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(labels.shape):
        out[y, x] = (padded[y : y + 2 * distance + 1, x : x + 2 * distance + 1] != labels[y, x]).any()
    return out


@settings(max_examples=40)
@given(
    arrays(np.uint16, st.tuples(st.integers(1, 70), st.integers(1, 40)), elements=st.sampled_from([0, 1, 300, 1000]))
)
def test_equals_the_definition(labels: np.ndarray) -> None:
    np.testing.assert_array_equal(boundary_mask(labels), brute_boundary(labels))


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 90), st.integers(1, 90))
def test_equals_the_definition_on_regions(seed: int, height: int, width: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 3, (4, 4)) * 400
    labels = coarse[np.arange(height)[:, None] * 4 // height, np.arange(width) * 4 // width]
    np.testing.assert_array_equal(boundary_mask(labels), brute_boundary(labels))


@pytest.mark.parametrize(("shape", "width_px"), [((1, 1), 1), ((30, 40), 2), ((50, 50), 2), ((375, 500), 19)])
def test_width_is_three_percent_of_the_diagonal_halves_to_even(shape: tuple[int, int], width_px: int) -> None:
    assert boundary_width_px(*shape) == width_px


def test_a_uniform_map_has_only_its_border() -> None:
    labels = np.full((90, 120), 7, np.uint16)
    np.testing.assert_array_equal(boundary_mask(labels), border_band(labels.shape, boundary_width_px(90, 120)))


def test_windows_ignore_what_lies_off_the_image() -> None:
    lowest, highest = window_extremes(np.array([[3, 9, 5]], np.uint8), 1)
    assert lowest.tolist() == [[3, 3, 5]] and highest.tolist() == [[9, 9, 9]]
