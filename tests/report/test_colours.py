"""The palette can be told apart, whatever one's colour vision."""

from itertools import combinations

import numpy as np
import pytest

from luss_ray.report.colours import CHROMA, luminance, palette, perceived, rgb


@pytest.mark.parametrize(("num", "least"), [(8, 0.07), (14, 0.07), (20, 0.05)])
def test_any_two_colours_differ_under_every_vision(num: int, least: float) -> None:
    seen = perceived(np.array([rgb(colour) for colour in palette(num)]))
    distances = [np.linalg.norm(seen[:, a] - seen[:, b], axis=-1).min() for a, b in combinations(range(num), 2)]
    assert min(distances) > least


def test_a_longer_palette_starts_with_the_shorter_one() -> None:
    assert palette(30)[:9] == palette(9)
    assert palette(0) == []
    assert len(set(palette(200))) == 200


def test_colours_are_not_the_grey_of_other() -> None:
    _, a, b = perceived(np.array([rgb(colour) for colour in palette(40)]))[0].T
    assert np.hypot(a, b).min() > CHROMA[0] - 0.01


def test_known_values() -> None:
    assert luminance("#ffffff") == pytest.approx(1)
    assert luminance("#000000") == 0
    lightness, a, b = perceived(np.array([[255.0, 255.0, 255.0]]))[0, 0]
    assert (lightness, a, b) == pytest.approx((1, 0, 0), abs=1e-3)
    assert np.allclose(
        perceived(np.full((1, 3), 120.0))[1:, 0, 0], perceived(np.full((1, 3), 120.0))[0, 0, 0], atol=1e-3
    )
