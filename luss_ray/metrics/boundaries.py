"""Class boundaries of a label map, all classes at once."""

import cv2
import numpy as np
from jaxtyping import Bool, Integer, UInt8

BOUNDARY_SHARE = 0.03


def boundary_width_px(height: int, width: int) -> int:
    """Return the Chebyshev distance that counts as boundary: 3% of the diagonal, halves to even, at least 1.

    Args:
        height: pixels, at least 1.
        width: pixels, at least 1.
    """
    return max(1, round(BOUNDARY_SHARE * float(np.hypot(height, width))))


def boundary_mask(labels: Integer[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Return where a pixel lies within the boundary width of a pixel of another id, or of the image's border.

    Every id is a class here, 0 and the ignore id too. A window holds two ids exactly when one of its 2 x 2 blocks
    does, so one separable filter replaces an erosion a class.

    Args:
        labels: ids in 0..65535.

    Source: ImageNet-S (arXiv 2106.03149), boundary mIoU; after Cheng et al., "Boundary IoU", CVPR 2021.
    """
    distance_px = boundary_width_px(*labels.shape)
    mixed = np.zeros(labels.shape, bool)
    mixed[:, :-1] = labels[:, :-1] != labels[:, 1:]
    mixed[:-1] |= labels[:-1] != labels[1:]
    mixed[:-1, :-1] |= labels[:-1, :-1] != labels[1:, 1:]
    blocks = np.ones((2 * distance_px, 2 * distance_px), np.uint8)
    near = cv2.dilate(mixed.view(np.uint8), blocks, anchor=(distance_px, distance_px))
    return near.view(bool) | border_band(labels.shape, distance_px)


def window_extremes(
    values: UInt8[np.ndarray, "H W"], distance_px: int
) -> tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H W"]]:
    """Return the minimum and the maximum within a Chebyshev distance of each pixel; pixels off the image don't count.

    Args:
        values: bytes.
        distance_px: at least 1.
    """
    window = np.ones((2 * distance_px + 1, 2 * distance_px + 1), np.uint8)
    return cv2.erode(values, window), cv2.dilate(values, window)


def border_band(shape: tuple[int, ...], distance_px: int) -> Bool[np.ndarray, "H W"]:
    """Return where a pixel lies within `distance_px` of the outside of the image.

    Args:
        shape: (H, W).
        distance_px: at least 1; the band is that many pixels wide.
    """
    band = np.ones(shape, bool)
    band[distance_px:-distance_px, distance_px:-distance_px] = False
    return band
