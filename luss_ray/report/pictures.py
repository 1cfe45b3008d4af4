"""Images and label maps as pictures that sit inside the page."""

import base64
from io import BytesIO

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from matplotlib import colormaps
from PIL import Image

from luss_ray.report.colours import rgb
from luss_ray.report.data import IGNORE, OTHER

WEBP_QUALITY = 82
FADE = 0.42
"""How much of the photo's contrast is left where nothing was found."""
TINT = 0.74
"""Share of the category's colour over the photo in grey: enough to keep its hue on white and on black things."""


def data_uri(image: UInt8[np.ndarray, "H W 3"], *, quality: int = WEBP_QUALITY) -> str:
    """Return the image as a WebP `data:` address.

    Args:
        image: RGB.
        quality: WebP quality, 0..100.
    """
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def fit(image: UInt8[np.ndarray, "H W 3"], side_px: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image with its longer side at `side_px`, whether that makes it smaller or larger."""
    height, width = image.shape[:2]
    size = tuple(max(1, round(side_px * length / max(height, width))) for length in (width, height))
    shrinks = side_px < max(height, width)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def square(image: UInt8[np.ndarray, "H W 3"], side_px: int) -> UInt8[np.ndarray, "side side 3"]:
    """Return the image's central square at `side_px`."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return fit(image[top : top + side, left : left + side], side_px)


def label_picture(
    image: UInt8[np.ndarray, "H W 3"], labels: Integer[np.ndarray, "H W"], colours: dict[int, str], *, side_px: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the photo, faded to grey, with each category's pixels in its colour and an outline around them.

    Ignored pixels are hatched.

    Args:
        image: the photo.
        labels: ids; 0 = other, 1000 = ignore.
        colours: id -> "#rrggbb" for every other id in `labels`.
        side_px: longer side of the picture.
    """
    photo = fit(image, side_px)
    ids = cv2.resize(labels.astype(np.uint16), photo.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    out = _faded(photo)
    for number in np.unique(ids):
        if number in (OTHER, IGNORE):
            continue
        inside, colour = ids == number, np.array(rgb(colours[int(number)]), np.float32)
        out[inside] = TINT * colour + (1 - TINT) * _grey(photo)[inside, None]
        out[_outline(inside)] = colour
    _hatch(out, ids == IGNORE)
    return np.clip(out, 0, 255).astype(np.uint8)


def attention_picture(
    image: UInt8[np.ndarray, "H W 3"],
    attention: Float[np.ndarray, "H W"],
    limits: tuple[float, float],
    *,
    threshold: float | None,
    side_px: int,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the attention as a heat map (dark = low) with a white line where it crosses the threshold.

    Args:
        image: the photo, only its size is used.
        attention: mean attention over channels.
        limits: the values shown darkest and brightest.
        threshold: pixels below it become other; None draws no line.
        side_px: longer side of the picture.
    """
    size = fit(image, side_px).shape[1::-1]
    values = cv2.resize(attention.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    low, high = limits
    shown = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    out = (colormaps["cividis"](shown)[..., :3] * 255).astype(np.uint8)
    if threshold is not None:
        out[_outline(values >= threshold)] = 255
    return out


def shares(labels: Integer[np.ndarray, "H W"]) -> dict[int, float]:
    """Return the share of pixels of each id, largest first, ignored pixels left out of it all."""
    ids, counts = np.unique(labels[labels != IGNORE], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {int(ids[i]): float(counts[i] / counts.sum()) for i in order}


def _grey(photo: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _faded(photo: np.ndarray) -> np.ndarray:
    return np.repeat((150 + FADE * (_grey(photo) - 128))[..., None], 3, axis=2)


def _outline(inside: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    width_px = max(3, round(max(inside.shape) / 70) | 1)
    eroded = cv2.erode(inside.astype(np.uint8), np.ones((width_px, width_px), np.uint8), borderValue=1)
    return inside & (eroded == 0)


def _hatch(out: np.ndarray, inside: Bool[np.ndarray, "h w"]) -> None:
    rows, columns = np.nonzero(inside)
    out[inside] = np.where((rows + columns) % 6 < 2, 60.0, 205.0)[:, None]
