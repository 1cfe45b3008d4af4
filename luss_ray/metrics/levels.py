"""How many of the attention thresholds a pixel reaches."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8


class Levels:
    """Thresholds that attention is compared with.

    Args:
        levels: ascending.
    """

    _CELLS = 256

    def __init__(self, levels: Float32[np.ndarray, " T"]) -> None:
        self._levels = levels
        cells, counts = np.unique(self._cells(levels), return_counts=True)
        self._crowded = bool(counts.max() > 1)
        self._below = np.searchsorted(cells, np.arange(self._CELLS)).astype(np.uint8)
        self._within = np.full(self._CELLS, np.inf, np.float32)
        if not self._crowded:
            self._within[cells] = levels

    def __len__(self) -> int:
        return len(self._levels)

    def _cells(self, values: Float32[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
        """Return in which of the equal parts of [0, 1] a value lies, NaN in the last."""
        parts = np.fmin(values * np.float32(self._CELLS), np.float32(self._CELLS - 1))
        return np.maximum(parts, 0, out=parts).astype(np.uint8)

    def reached(self, values: Float32[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
        """Return how many of the levels a value isn't below.

        As long as no two levels share a part of [0, 1], which levels a value has passed follows from its part, and
        from one comparison with the level in it.
        """
        if self._crowded:
            return np.searchsorted(self._levels, values, side="right").astype(np.uint8)
        cells = self._cells(values)
        passed = ~(values < cv2.LUT(cells, self._within))
        return np.minimum(cv2.LUT(cells, self._below) + passed, np.uint8(len(self)))
