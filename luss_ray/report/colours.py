"""One colour a category, told apart with any kind of colour vision."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float

# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency"
# (IEEE TVCG 2009), severity 1.0, on linear RGB: protanopia, deuteranopia, tritanopia.
DEFICIENCIES = np.array(
    [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)
FIRST = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442"]
"""Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), black left out; the others follow from them."""
LIGHTNESS = (0.48, 0.88)
"""Oklab lightness allowed, so that colours show on white and on near black."""
CHROMA = (0.09, 0.21)
"""Oklab chroma allowed: below, a colour would pass for the grey of "other"; above, it glares."""


def palette(num: int) -> list[str]:
    """Return `num` colours as "#rrggbb", the first ones the same for any `num`.

    Each next colour is the one farthest from all before it, where the distance of two colours is the least of their
    Oklab distances under normal vision and the three colour-vision deficiencies. Beyond a dozen or two no palette is
    safe, so the page always names categories in words too.

    Args:
        num: number of colours, at most 1000.
    """
    if num <= len(FIRST):
        return FIRST[:num]
    candidates, chosen = _candidates(), list(FIRST)
    seen = perceived(candidates)
    nearest = np.min([_distances(seen, colour) for colour in chosen], axis=0)
    while len(chosen) < num:
        red, green, blue = (int(value) for value in candidates[int(nearest.argmax())])
        chosen.append(f"#{red:02x}{green:02x}{blue:02x}")
        nearest = np.minimum(nearest, _distances(seen, chosen[-1]))
    return chosen


def rgb(colour: str) -> tuple[int, int, int]:
    """Return the three values 0..255 of "#rrggbb"."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def luminance(colour: str) -> float:
    """Return the relative luminance of "#rrggbb", 0..1 (WCAG 2.2)."""
    return float(_linear(np.array(rgb(colour))) @ (0.2126, 0.7152, 0.0722))


def perceived(colours: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "4 n 3"]:
    """Return colours (0..255) in Oklab as seen with normal vision and with each deficiency.

    Source: https://bottosson.github.io/posts/oklab/ for the space.
    """
    linear = _linear(colours)
    seen = np.stack([linear, *(np.clip(linear @ matrix.T, 0, 1) for matrix in DEFICIENCIES)])
    to_cones = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                         [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
    to_lab = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                       [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
    return np.cbrt(seen @ to_cones.T) @ to_lab.T


def _distances(seen: Float[np.ndarray, "4 n 3"], colour: str) -> Float[np.ndarray, " n"]:
    return np.linalg.norm(seen - perceived(np.array([rgb(colour)])), axis=-1).min(axis=0)


@lru_cache(maxsize=1)
def _candidates() -> np.ndarray:
    levels = np.linspace(0, 255, 18).round()
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, a, b = perceived(colours)[0].T
    chroma = np.hypot(a, b)
    bright_enough = (lightness > LIGHTNESS[0]) & (lightness < LIGHTNESS[1])
    return colours[bright_enough & (chroma > CHROMA[0]) & (chroma < CHROMA[1])]


def _linear(colours: np.ndarray) -> np.ndarray:
    values = colours / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
