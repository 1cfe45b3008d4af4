"""The grid of a crop pair: points of their overlap in each crop's own coordinates, for pixel-to-pixel alignment."""

import numpy as np
from jaxtyping import Float32, Int

OUTSIDE = -2.0


def pair_grid(
    geometry_a: Int[np.ndarray, "n 5"], geometry_b: Int[np.ndarray, "n 5"], size: int = 7
) -> tuple[Float32[np.ndarray, "n S S 2"], Float32[np.ndarray, "n S S 2"]]:
    """Return the sampling grids of both crops of each pair, (x, y) in [-1, 1], for `grid_sample(align_corners=False)`.

    Point (i, j) of both grids is the same place of the source image.

    Args:
        geometry_a: [left, top, width, height, flip] of the first crop in pixels of the source image.
        geometry_b: the same of the second crop.
        size: points a side, S.

    Returns:
        Two grids; all of a pair without overlap is -2, where everything samples as zero.

    Source: Gao et al., arXiv 2106.03149, pixel-to-pixel alignment; the points span the overlap corner to corner.
    """
    a, b = np.asarray(geometry_a, np.float64), np.asarray(geometry_b, np.float64)
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:4], b[:, :2] + b[:, 2:4])
    steps = np.linspace(0.0, 1.0, size)[:, None]
    points = low[:, None] + (high - low)[:, None] * steps
    disjoint = np.min(high - low, axis=1) <= 0
    return _own_coordinates(points, a, disjoint), _own_coordinates(points, b, disjoint)


def _own_coordinates(points: np.ndarray, geometry: np.ndarray, disjoint: np.ndarray) -> np.ndarray:
    """Return the mesh of `points` (n, S, 2), x and y on the overlap's sides, as seen by one crop of each pair."""
    inside = (points - geometry[:, None, :2]) / geometry[:, None, 2:4] * 2 - 1
    x = np.where(geometry[:, None, 4] > 0, -inside[..., 0], inside[..., 0])
    num, size = x.shape
    grid = np.empty((num, size, size, 2), np.float32)
    grid[..., 0], grid[..., 1] = x[:, None, :], inside[:, :, None, 1]
    grid[disjoint] = OUTSIDE
    return grid
