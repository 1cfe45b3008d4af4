"""Pseudo-labels before the threshold: cluster and attention of each pixel of the feature map, in one small RGB PNG.

R + 256 G is the cluster, as in the masks of ImageNet-S (whose codec reads it), B the attention in 255ths. What a pixel
of the image gets follows from it, for any threshold: see `SoftLabel.at`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Int, Int64, Integer, UInt8, UInt16

from luss_ray.core.errors import BadSampleError
from luss_ray.imagenet_s import masks

LEVELS = 256
"""Values that an attention has when it is stored: 0, 1/255, …, 1."""

_PNG_END = b"IEND\xaeB`\x82"
_PNG_OPTIONS = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH, cv2.IMWRITE_PNG_COMPRESSION, 6]
_PNG_OPTIONS += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED]
"""Attention is most of the bytes, and smooth: predicted from its neighbours it takes a third fewer than unfiltered."""


class Maps(NamedTuple):
    """What step 2 says of an image's pixels, or of some of them."""

    clusters: Integer[np.ndarray, "H W"]
    """Cluster of each pixel, 1 .. k."""
    attention: Float32[np.ndarray, "H W"]
    """Mean over channels, 0 .. 1."""

    def pseudo_label(self, threshold: float) -> UInt16[np.ndarray, "H W"]:
        """Return the clusters with 0 ("other") where attention is below the threshold, compared in float32."""
        return np.where(self.attention < np.float32(threshold), 0, self.clusters).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class SoftLabel:
    """What is stored of an image: both maps at the resolution at which labels are decided."""

    labels: UInt16[np.ndarray, "h w"]
    """Cluster of each pixel of the feature map, 1 .. k."""
    attention: UInt8[np.ndarray, "h w"]
    """Its attention in 255ths, rounded."""

    def __post_init__(self) -> None:
        assert self.labels.dtype == np.uint16 and self.attention.dtype == np.uint8
        assert self.labels.shape == self.attention.shape and self.labels.ndim == 2

    def encode(self) -> bytes:
        """Return an RGB PNG (h, w), lossless."""
        blue_green_red = np.stack([self.attention, self.labels >> 8, self.labels & 255], axis=-1).astype(np.uint8)
        done, data = cv2.imencode(".png", blue_green_red, _PNG_OPTIONS)
        assert done, f"PNG encoder refused {self.labels.shape}"
        return data.tobytes()

    @classmethod
    def decode(cls, data: bytes) -> "SoftLabel":
        """Return what was encoded.

        Raises:
            BadSampleError: not a PNG, cut short, or not of 8-bit RGB.
        """
        with masks.opened(data) as image:
            if (image.format, image.mode) != ("PNG", "RGB"):
                raise BadSampleError(f"the label is {image.format} in {image.mode}, it must be PNG in RGB")
            if not data.endswith(_PNG_END):  # Pillow is content once it has seen all pixels
                raise BadSampleError("the label is cut short")
            red, green, blue = np.moveaxis(np.asarray(image), -1, 0)
        return cls(red + (green.astype(np.uint16) << 8), np.ascontiguousarray(blue))

    def at(self, rows: Int[np.ndarray, " r"], columns: Int[np.ndarray, " c"], *, height: int, width: int) -> Maps:
        """Return the maps (r, c) at some rows and columns of the image.

        They are those of the maps resized to the whole image: clusters from the nearest, attention bilinearly
        (corners not aligned), as `torch.nn.functional.interpolate` does both.

        Args:
            rows: of the image, 0 .. height - 1.
            columns: of the image, 0 .. width - 1.
            height: of the image, pixels.
            width: of the image, pixels.

        Source: arXiv 2106.03149, published label generation.
        """
        h, w = self.labels.shape
        clusters = self.labels[_nearest(rows, height, h)[:, None], _nearest(columns, width, w)]
        attention = self.attention / np.float32(LEVELS - 1)
        attention = _between(attention, *_neighbours(columns, width, w))
        return Maps(clusters, np.ascontiguousarray(_between(attention.T, *_neighbours(rows, height, h)).T))

    def resized(self, height: int, width: int) -> Maps:
        """Return the maps at the image's own size."""
        return self.at(np.arange(height), np.arange(width), height=height, width=width)


def _nearest(places: Int[np.ndarray, " n"], size: int, source: int) -> Int64[np.ndarray, " n"]:
    """Return the source place of each of `places` along a side of `size`: floor(place x source / size) in float32."""
    if size in (source, 2 * source):
        return places * source // size
    scale = np.float32(source) / np.float32(size)
    return np.minimum((places.astype(np.float32) * scale).astype(np.int64), source - 1)


def _neighbours(
    places: Int[np.ndarray, " n"], size: int, source: int
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Return the source places before and after each place along a side of `size`, and how far it is to the latter."""
    position = np.maximum((places + 0.5) * (source / size) - 0.5, 0)
    before = np.minimum(position.astype(np.int64), source - 1)
    return before, np.minimum(before + 1, source - 1), (position - before).astype(np.float32)


def _between(
    values: Float32[np.ndarray, "m source"],
    before: Int64[np.ndarray, " n"],
    after: Int64[np.ndarray, " n"],
    way: Float32[np.ndarray, " n"],
) -> Float32[np.ndarray, "m n"]:
    """Return values between neighbours; between two equal ones it is exactly theirs."""
    start = values[:, before]
    return start + way * (values[:, after] - start)
