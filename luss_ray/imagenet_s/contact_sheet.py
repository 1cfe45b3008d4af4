"""A contact sheet: a few images of a dataset with their masks laid over them, as a picture or a page."""

import base64
import colorsys
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageOps

from luss_ray.imagenet_s import masks

TILE_PX = 160
"""Side of the square in which an image is shown."""

_CAPTION_PX, _GAP_PX = 16, 8
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); }
figure { margin: 0; } img { border-radius: 6px; max-width: 100%; }
figcaption { overflow-wrap: anywhere; font-size: .8rem; }
"""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One sample of the sheet."""

    image: Image.Image
    """The decoded image."""
    mask: np.ndarray | None
    """Category ids of its pixels, or None."""
    title: str
    """Its category."""
    key: str
    """Its key."""


def colour(category_id: int) -> tuple[int, int, int]:
    """Return the colour of a category: neighbouring ids differ in hue; ignored pixels are white."""
    if category_id == masks.IGNORE:
        return 255, 255, 255
    red, green, blue = colorsys.hsv_to_rgb(category_id * 0.618034 % 1, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def overlay(tile: Tile, strength: float = 0.5) -> UInt8[np.ndarray, "h w 3"]:
    """Return a tile's image, its longer side `TILE_PX`, with its mask's colours laid over it.

    Args:
        tile: the sample.
        strength: how much of the colour is taken, 0 to 1.
    """
    image = ImageOps.contain(tile.image.convert("RGB"), (TILE_PX, TILE_PX))
    pixels = np.asarray(image).astype(np.float32)
    if tile.mask is not None:
        ids = Image.fromarray(tile.mask.astype(np.int32)).resize(image.size, Image.Resampling.NEAREST)
        for category_id in np.unique(np.asarray(ids)):
            if category_id != masks.OTHER:
                chosen = np.asarray(ids) == category_id
                pixels[chosen] += strength * (np.array(colour(int(category_id))) - pixels[chosen])
    return pixels.round().astype(np.uint8)


def as_png(tiles: Sequence[Tile], columns: int = 6) -> bytes:
    """Return the sheet as a PNG, each image with its category below it."""
    columns = max(1, min(columns, len(tiles)))
    width, height = TILE_PX + _GAP_PX, TILE_PX + _CAPTION_PX + _GAP_PX
    sheet = Image.new("RGB", (columns * width + _GAP_PX, -(-len(tiles) // columns) * height + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        left, top = _GAP_PX + number % columns * width, _GAP_PX + number // columns * height
        sheet.paste(Image.fromarray(overlay(tile)), (left, top))
        draw.text((left, top + TILE_PX), _printable(tile.title)[:26], fill="black")
    return _png(sheet)


def as_html(tiles: Sequence[Tile], heading: str) -> bytes:
    """Return the sheet as one self-contained page."""
    figures = "\n".join(_figure(tile) for tile in tiles)
    title = html.escape(heading)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1><main>\n{figures}\n</main></html>\n"
    ).encode()


def _figure(tile: Tile) -> str:
    data = base64.b64encode(_png(Image.fromarray(overlay(tile)))).decode()
    title, key = html.escape(tile.title), html.escape(tile.key)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{title}">'
        f"<figcaption><b>{title}</b> {key}</figcaption></figure>"
    )


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _printable(text: str) -> str:
    """Return text that Pillow's built-in font has letters for."""
    return text.encode("latin-1", "replace").decode("latin-1")
