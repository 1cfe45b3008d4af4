"""One source image on its way into a shard: looked at, decoded once to be sure, made smaller where asked for."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from luss_ray.core.errors import BadSampleError
from luss_ray.imagenet_s import masks

MAX_PIXELS = 1 << 26
"""Larger images are refused, unless they are made smaller: nothing downstream would decode them."""

_KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_PNG_MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "I;16"))
_JPEG_QUALITY = 92


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What of one sample goes into its shard."""

    image: bytes
    """Encoded image."""
    suffix: str
    """`jpg`, `png` or `webp`, from the content, not from the file's name."""
    height: int
    """Pixels of the decoded image."""
    width: int
    """Pixels of the decoded image."""
    mask: bytes | None
    """Encoded mask of the same size, or None."""


def prepare(image: bytes, mask: bytes | None, *, num_categories: int, max_side_px: int | None) -> Prepared:
    """Return a sample as it is packed: JPEG, PNG and WebP keep their bytes unless they are made smaller.

    Other formats become PNG (of an animation its first frame). EXIF orientation is not applied: masks belong to the
    stored pixels.

    Args:
        image: the source file's content.
        mask: the mask file's content.
        num_categories: ids above it, 1000 aside, make a mask invalid.
        max_side_px: longer sides are reduced to this; None = never.

    Raises:
        BadSampleError: the image or the mask can't be decoded to the end, or they don't fit together.
    """
    decoded, height, width, suffix = _decode(image, max_side_px)
    if mask is not None:
        mask = _checked_mask(mask, height, width, num_categories)
    if decoded is None:
        return Prepared(image=image, suffix=suffix, height=height, width=width, mask=mask)
    data = _encode(decoded, suffix)
    if mask is not None and (decoded.height, decoded.width) != (height, width):
        mask = _resized_mask(mask, decoded.size)
    return Prepared(image=data, suffix=suffix, height=decoded.height, width=decoded.width, mask=mask)


def image_size(data: bytes) -> tuple[int, int]:
    """Return (height, width) of an encoded image from its header; BadSampleError if it has none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadSampleError(_reason(error)) from None


def _decode(data: bytes, max_side_px: int | None) -> tuple[Image.Image | None, int, int, str]:
    """Return the image if it must be encoded anew, height and width of the source, and the suffix."""
    if not data:
        raise BadSampleError("empty file")
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            too_long = max_side_px is not None and max(height, width) > max_side_px
            if height * width > MAX_PIXELS and not too_long:
                raise BadSampleError(f"{width} x {height} pixels; the limit is {MAX_PIXELS} (or give --max-side)")
            suffix = _KEPT.get(image.format or "")
            if suffix and not too_long:
                image.draft(None, (1, 1))  # JPEG: an eighth of the size, but the data are read to their end
                image.load()
                return None, height, width, suffix
            if image.mode == "F":
                raise BadSampleError("floating-point pixels have no known range")
            image.load()
            kept = image.copy()
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BadSampleError(_reason(error)) from None
    if max_side_px is not None and too_long:
        return _reduced(kept, max_side_px), height, width, "jpg" if suffix == "jpg" else "png"
    return kept, height, width, "png"


def _reduced(image: Image.Image, max_side_px: int) -> Image.Image:
    scale = max_side_px / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if image.mode not in ("L", "RGB"):
        transparent = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
        image = image if image.mode == "I;16" else image.convert("RGBA" if transparent else "RGB")
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _encode(image: Image.Image, suffix: str) -> bytes:
    out = io.BytesIO()
    try:
        if suffix == "jpg":
            image.save(out, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
        else:
            image = image if image.mode in _PNG_MODES else image.convert("RGB")
            image.save(out, "PNG", compress_level=4)
    except (OSError, ValueError) as error:
        raise BadSampleError(f"can't be encoded anew: {_reason(error)}") from None
    return out.getvalue()


def _checked_mask(data: bytes, height: int, width: int, num_categories: int) -> bytes:
    ids = masks.decode(data)
    if ids.shape != (height, width):
        size = f"{ids.shape[1]} x {ids.shape[0]}"
        raise BadSampleError(f"its mask has {size} pixels, the image {width} x {height}")
    wrong = ids[(ids > num_categories) & (ids != masks.IGNORE)]
    if len(wrong):
        raise BadSampleError(f"its mask has category id {wrong.max()}, but there are {num_categories} categories")
    return data if data[25] == 2 else masks.encode(ids)  # byte 25: colour type; 2 = RGB


def _resized_mask(data: bytes, size: tuple[int, int]) -> bytes:
    ids = Image.fromarray(masks.decode(data).astype(np.int32))
    return masks.encode(np.asarray(ids.resize(size, Image.Resampling.NEAREST)).astype(np.uint16))


def _reason(error: Exception) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0]
    return "not an image" if "cannot identify" in text else text
