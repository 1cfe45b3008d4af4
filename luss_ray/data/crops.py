"""Random resized crops of a decoded image, drawn from given uniform numbers: decode once, crop many.

Resizing is torch's antialiased bilinear on uint8: within 2 grey levels of Pillow (0.05 on average) and several times
faster; OpenCV's INTER_AREA differs by up to 23 (1.5 on average) and takes longer, INTER_LINEAR aliases.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, Int64, Shaped, UInt8

from luss_ray.core.errors import BadSampleError, UserError

NUM_TRIES = 10
DRAWS_PER_CROP = 2 * NUM_TRIES + 3
MAX_RESIZED_PIXELS = 1 << 26

LabelAt = Callable[[Int64[np.ndarray, " rows"], Int64[np.ndarray, " columns"]], Shaped[np.ndarray, "rows columns"]]
"""Gives the label ids at rows and columns of the source image."""


@dataclass(frozen=True, kw_only=True)
class CropSpec:
    """One kind of random crop of a multi-crop."""

    num: int
    """Crops of this kind per image."""
    size_px: int
    """Side of the square that a crop is resized to, pixels."""
    scale: tuple[float, float]
    """Smallest and largest share of the image's area, in (0, 1]."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width over height, log-uniform between them."""
    flip_p: float = 0.5
    """Probability of a horizontal flip."""

    def __post_init__(self) -> None:
        if self.num < 1 or self.size_px < 1:
            raise UserError(f"crops: num and size_px must be at least 1, not {self.num} and {self.size_px}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"crops: scale must be 0 < smallest <= largest <= 1, not {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"crops: ratio must be 0 < smallest <= largest, not {self.ratio}")


def num_draws(specs: Sequence[CropSpec]) -> int:
    """Return how many uniform numbers a multi-crop of one image takes."""
    return sum(spec.num for spec in specs) * DRAWS_PER_CROP


def draw_boxes(
    height: int, width: int, spec: CropSpec, draws: Float[np.ndarray, "n draws"]
) -> Int64[np.ndarray, "n 5"]:
    """Return the geometry [left, top, width, height, flip] of n random resized crops, in pixels of the source image.

    Args:
        height: of the source image, pixels.
        width: of the source image, pixels.
        spec: ranges of area and ratio.
        draws: uniform numbers in [0, 1), `DRAWS_PER_CROP` a crop: the tries' areas, their ratios, then x, y and flip.

    Source: torchvision's RandomResizedCrop: the first of 10 tries that fits the image, else the largest centred
    box of an allowed ratio. The place is drawn once rather than in every try, which is the same distribution.
    """
    # Plain numbers: for the two boxes of an image NumPy's calls would take five times as long.
    return np.array([_draw_box(height, width, spec, numbers) for numbers in draws.tolist()], np.int64).reshape(-1, 5)


def _draw_box(height: int, width: int, spec: CropSpec, draws: list[float]) -> tuple[int, int, int, int, bool]:
    low, high = (height * width * share for share in spec.scale)
    log_low, log_high = math.log(spec.ratio[0]), math.log(spec.ratio[1])
    u_left, u_top, u_flip = draws[2 * NUM_TRIES :]
    flip = u_flip < spec.flip_p
    for u_area, u_ratio in zip(draws[:NUM_TRIES], draws[NUM_TRIES : 2 * NUM_TRIES], strict=True):
        area, ratio = low + (high - low) * u_area, math.exp(log_low + (log_high - log_low) * u_ratio)
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = int(u_left * (width - box_width + 1)), int(u_top * (height - box_height + 1))
            return min(left, width - box_width), min(top, height - box_height), box_width, box_height, flip
    return *_central_box(height, width, spec.ratio), flip


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return [left, top, width, height] of the largest centred box whose width over height is allowed."""
    box_width, box_height = width, height
    if width / height < ratio[0]:
        box_height = max(round(width / ratio[0]), 1)
    elif width / height > ratio[1]:
        box_width = max(round(height * ratio[1]), 1)
    return (width - box_width) // 2, (height - box_height) // 2, box_width, box_height


def resize(image: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Return the image at another size, antialiased bilinear."""
    if image.shape[:2] == (height, width):
        return image
    # A batch of one made in this way is in channels-last order for torch too, which resizes it twice as fast.
    tensor = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(tensor, (height, width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def crop_resize(
    image: UInt8[np.ndarray, "h w 3"],
    box: Int[np.ndarray, "5"],
    size_px: int,
    out: UInt8[np.ndarray, "{size_px} {size_px} 3"] | None = None,
) -> UInt8[np.ndarray, "{size_px} {size_px} 3"]:
    """Return one crop, resized and, where the box says so, flipped.

    Args:
        image: the source.
        box: [left, top, width, height, flip].
        size_px: side of the result.
        out: where to put it; a new array if left out.
    """
    left, top, width, height, flip = (int(number) for number in box)
    resized = resize(image[top : top + height, left : left + width], size_px, size_px)
    if out is None:
        out = np.empty((size_px, size_px, 3), np.uint8)
    if flip:
        cv2.flip(resized, 1, dst=out)
    else:
        out[...] = resized
    return out


def multi_crop(
    image: UInt8[np.ndarray, "h w 3"], specs: Sequence[CropSpec], draws: Float[np.ndarray, " draws"]
) -> tuple[list[UInt8[np.ndarray, "num size size 3"]], Int64[np.ndarray, "crops 5"]]:
    """Return all crops of one image, an array for each spec, and their geometry in the same order.

    Args:
        image: the source.
        specs: kinds of crops; the two global ones come first.
        draws: `num_draws(specs)` uniform numbers in [0, 1) of this (seed, epoch, sample).

    Returns:
        The crops, flipped where drawn, and [left, top, width, height, flip] of each in pixels of the source.
    """
    height, width = image.shape[:2]
    per_crop = np.reshape(draws, (-1, DRAWS_PER_CROP))
    crops, geometry, used = [], [], 0
    for spec in specs:
        boxes = draw_boxes(height, width, spec, per_crop[used : used + spec.num])
        used += spec.num
        crops.append(np.empty((spec.num, spec.size_px, spec.size_px, 3), np.uint8))
        for box, out in zip(boxes, crops[-1], strict=True):
            crop_resize(image, box, spec.size_px, out)
        geometry.append(boxes)
    assert used == len(per_crop)
    return crops, np.concatenate(geometry)


def paired_crop(
    image: UInt8[np.ndarray, "h w 3"],
    label_at: LabelAt,
    spec: CropSpec,
    draws: Float[np.ndarray, " draws"],
) -> tuple[UInt8[np.ndarray, "size size 3"], Shaped[np.ndarray, "size size"]]:
    """Return one random crop of image and label together, flipped together; label ids are taken from the nearest pixel.

    Args:
        image: the source.
        label_at: gives its labels; asked for the crop's pixels alone.
        spec: kind of the crop; `num` is 1.
        draws: `DRAWS_PER_CROP` uniform numbers in [0, 1).
    """
    box = draw_boxes(image.shape[0], image.shape[1], spec, np.reshape(draws, (1, DRAWS_PER_CROP)))[0]
    left, top, width, height, flip = box.tolist()
    centres = (np.arange(spec.size_px) + 0.5) / spec.size_px
    rows, columns = top + (centres * height).astype(np.int64), left + (centres * width).astype(np.int64)
    return crop_resize(image, box, spec.size_px), label_at(rows, columns[::-1] if flip else columns)


def resize_shorter(image: UInt8[np.ndarray, "h w 3"], size_px: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Return the image with its shorter side `size_px` pixels long, the longer one in proportion (rounded down).

    Raises:
        BadSampleError: the sides are so unequal that the result would exceed `MAX_RESIZED_PIXELS`.
    """
    height, width = image.shape[:2]
    new_height, new_width = shape_of_shorter(height, width, size_px)
    if new_height * new_width > MAX_RESIZED_PIXELS:
        raise BadSampleError(f"{width}x{height} pixels would become {new_width}x{new_height}")
    return resize(image, new_height, new_width)


def shape_of_shorter(height: int, width: int, size_px: int) -> tuple[int, int]:
    """Return the (height, width) that `resize_shorter` gives an image."""
    longer = size_px * max(height, width) // min(height, width)
    return (size_px, longer) if height <= width else (longer, size_px)


def centre_crop(image: UInt8[np.ndarray, "h w 3"], size_px: int) -> UInt8[np.ndarray, "size size 3"]:
    """Return the central square, a view; the image is at least that large."""
    height, width = image.shape[:2]
    assert min(height, width) >= size_px
    top, left = round((height - size_px) / 2), round((width - size_px) / 2)
    return image[top : top + size_px, left : left + size_px]
