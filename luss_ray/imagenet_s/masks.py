"""The mask codec of ImageNet-S: RGB PNG with category id = R + 256 G."""

import contextlib
import io
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import UInt16
from PIL import Image

from luss_ray.core.errors import BadSampleError

OTHER = 0
"""Id of pixels that belong to none of the categories."""
IGNORE = 1000
"""Id of pixels that are left out of every score."""

_PNG_OPTIONS = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_COMPRESSION, 1]
"""Maps of a few flat regions compress best unfiltered; at this level they are also read twice as fast as at the
default one and written five times as fast, for half as many bytes again: still a tenth of the image's."""


def encode(ids: UInt16[np.ndarray, "h w"]) -> bytes:
    """Return a mask as an RGB PNG, lossless.

    Args:
        ids: category id of each pixel, 0 = other, 1000 = ignore.

    Source: ImageNet-S's annotation format; the third channel is written as 0.
    """
    blue_green_red = np.zeros((*ids.shape, 3), np.uint8)
    blue_green_red[..., 1] = ids >> 8
    blue_green_red[..., 2] = ids & 255
    done, data = cv2.imencode(".png", blue_green_red, _PNG_OPTIONS)
    assert done, f"PNG encoder refused {ids.shape}"
    return data.tobytes()


def decode(data: bytes) -> UInt16[np.ndarray, "h w"]:
    """Return the category id of each pixel of an encoded mask.

    A PNG with one channel (grey, 16-bit grey or palette) is taken to hold the ids themselves; in RGB the third channel
    and alpha are ignored.

    Raises:
        BadSampleError: not an image, cut short, or of a kind that can't hold ids.
    """
    with opened(data) as image:
        if image.format != "PNG":
            raise BadSampleError(f"the mask is {image.format}, it must be PNG")
        if image.mode in ("RGB", "RGBA"):
            return _low_words(image)
        pixels = np.asarray(image)
    if pixels.ndim == 2 and pixels.dtype.kind in "bui":
        return pixels.astype(np.uint16)
    raise BadSampleError(f"a mask of {pixels.dtype} with shape {pixels.shape} can't hold category ids")


def _low_words(image: Image.Image) -> UInt16[np.ndarray, "h w"]:
    """Return R + 256 G: the lower half of each pixel's four bytes as Pillow holds them."""
    words = np.frombuffer(image.tobytes("raw", "RGBX" if image.mode == "RGB" else "RGBA"), "<u4")
    return words.astype(np.uint16).reshape(image.height, image.width)


def size(data: bytes) -> tuple[int, int]:
    """Return (height, width) of an encoded mask from its header; BadSampleError if it has none."""
    with opened(data) as image:
        return image.height, image.width


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """Give an encoded mask as an image whose pixels are not read yet; what goes wrong meanwhile is a BadSampleError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadSampleError(f"unreadable mask ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].split(" <_io")[0]
