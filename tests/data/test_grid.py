import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from luss_ray.data.grid import OUTSIDE, pair_grid

boxes = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.integers(1, 30), st.integers(0, 1))


def test_published_grids(golden):
    stored = np.load(golden / "method" / "grid.npz")
    for ours, theirs in zip(pair_grid(stored["rectq"], stored["rectk"]), ("gridq_7", "gridk_7"), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, stored[theirs], atol=1e-6)


@given(st.lists(st.tuples(boxes, boxes), min_size=1, max_size=4), st.integers(2, 7))
def test_points_of_both_grids_are_the_same_place_of_the_source(pairs, size):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    places = []
    for geometry, grid in zip((a, b), pair_grid(a, b, size), strict=True):
        unit = (grid.astype(np.float64) + 1) / 2
        unit[..., 0] = np.where(geometry[:, 4, None, None] > 0, 1 - unit[..., 0], unit[..., 0])
        places.append(unit * geometry[:, None, None, 2:4] + geometry[:, None, None, :2])
    for index, (first, second) in enumerate(zip(*places, strict=True)):
        low, high = np.maximum(a, b)[index, :2], np.minimum(a[:, :2] + a[:, 2:4], b[:, :2] + b[:, 2:4])[index]
        if (high <= low).any():
            assert (pair_grid(a, b, size)[0][index] == OUTSIDE).all()
            continue
        np.testing.assert_allclose(first, second, atol=1e-4)
        np.testing.assert_allclose(first[0, 0], low, atol=1e-4)
        np.testing.assert_allclose(first[-1, -1], high, atol=1e-4)


@pytest.mark.parametrize("flip_a, flip_b", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_sampled_crops_agree(flip_a, flip_b):
    y, x = np.meshgrid(np.arange(60.0), np.arange(80.0), indexing="ij")
    source = torch.from_numpy(np.stack([x, y])).float()
    sampled = []
    geometries = np.array([[10, 5, 40, 30, flip_a]]), np.array([[20, 15, 50, 40, flip_b]])
    for geometry, grid in zip(geometries, pair_grid(*geometries, size=5), strict=True):
        left, top, width, height, flip = geometry[0]
        crop = source[:, top : top + height, left : left + width]
        crop = crop.flip(2) if flip else crop
        sampled.append(F.grid_sample(crop[None], torch.from_numpy(grid), align_corners=False)[0, :, 1:-1, 1:-1])
    torch.testing.assert_close(sampled[0], sampled[1], atol=1e-3, rtol=0)
