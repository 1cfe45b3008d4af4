"""Colour augmentation on a CPU: image after image through OpenCV, whose pixels stay in the nearest cache.

There it is faster than the batched operations that a GPU wants.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from luss_ray.data.colour import BLUR_REACH, CONTRAST, GREY_WEIGHTS, HUE, SATURATION, ColourParams, ColourSpec

_SAME, _TO_GREY = np.eye(3), np.tile(np.array(GREY_WEIGHTS), (3, 1))
_DEGREES = 360
_SHARED_PIXELS = 128 * 128
"""Of a crop from which on threads share the work."""


def augment_on_cpu(crops: UInt8[Tensor, "n h w 3"], params: ColourParams, spec: ColourSpec) -> Float[Tensor, "n 3 h w"]:
    """Do what `luss_ray.data.augment.augment` says, with as many threads as torch has."""
    out = torch.empty((*crops.shape[:3], 3))
    strengths = torch.stack([params.brightness, params.contrast, params.saturation, params.hue], dim=1).tolist()
    normalisation = np.column_stack([np.diag(np.reciprocal(spec.std)), -np.divide(spec.mean, spec.std)])
    orders, grey, sigmas_px = params.order.tolist(), params.grey.tolist(), params.sigma_px.tolist()
    source, target = crops.numpy(), out.numpy()

    def change(places: range) -> None:
        for place in places:
            pixels = np.multiply(source[place], np.float32(1 / 255))
            for operation in orders[place]:
                pixels = _jitter(pixels, operation, strengths[place][operation])
            if grey[place]:
                pixels = cv2.transform(pixels, _TO_GREY)
            if (sigma_px := sigmas_px[place]) > 0:
                size = 2 * min(math.ceil(BLUR_REACH * sigma_px), *(side - 1 for side in pixels.shape[:2])) + 1
                pixels = cv2.GaussianBlur(pixels, (size, size), sigma_px, borderType=cv2.BORDER_REFLECT_101)
            cv2.transform(pixels, normalisation, target[place])

    # Threads with small crops would rather wait for the interpreter's lock than compute.
    num_threads = torch.get_num_threads() if crops.shape[1] * crops.shape[2] >= _SHARED_PIXELS else 1
    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(change, [range(first, len(crops), num_threads) for first in range(num_threads)]))
    return out.permute(0, 3, 1, 2)


def _jitter(pixels: np.ndarray, operation: int, strength: float) -> np.ndarray:
    """Return the pixels after one of the four operations, perhaps in the same memory."""
    if operation == HUE:
        if strength == 0:
            return pixels
        hue = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        hue[..., 0] += strength % 1 * _DEGREES
        return cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)
    if strength == 1:
        return pixels
    if operation == SATURATION:
        pixels = cv2.transform(pixels, strength * _SAME + (1 - strength) * _TO_GREY)
    elif operation == CONTRAST:
        grey = float(np.dot(GREY_WEIGHTS, cv2.mean(pixels)[:3]))
        pixels *= strength
        pixels += (1 - strength) * grey
    else:
        pixels *= strength
    # Below 1 it is a mean of colours, which stays among them.
    return np.clip(pixels, 0, 1, out=pixels) if strength > 1 else pixels
