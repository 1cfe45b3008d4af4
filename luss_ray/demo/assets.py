"""The committed cut-outs and backgrounds, decoded once per process."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

FOLDER = Path(__file__).parent / "assets"
CLUTTER, BACKGROUND = "clutter", "background"  # catalogue entries that are no category to find


@dataclass(frozen=True)
class Asset:
    """One entry of `assets/catalogue.json`.

    Args:
        category: the category it shows, or `clutter`, or `background`.
        name: the library's name of it; for a background its family.
        library: which of the source packages it comes from.
        item: its identifier in that package.
        creator: who made it, where the package says so.
        licence: SPDX-like name of its licence.
        split: the one split whose scenes may show it, `train` or `validation`.
        atlas: the file in `assets/` that holds it.
        box: left, top, width, height in that file, in pixels.
    """

    category: str
    name: str
    library: str
    item: str
    creator: str
    licence: str
    split: str
    atlas: str
    box: tuple[int, int, int, int]


@cache
def catalogue() -> tuple[Asset, ...]:
    """Return every asset, in the catalogue's order."""
    entries = json.loads((FOLDER / "catalogue.json").read_text(encoding="utf-8"))
    return tuple(Asset(**{**entry, "box": tuple(entry["box"])}) for entry in entries)


@cache
def _atlas(name: str) -> UInt8[np.ndarray, "h w c"]:
    with Image.open(FOLDER / name) as image:
        return np.asarray(image)


def pixels(asset: Asset) -> UInt8[np.ndarray, "h w c"]:
    """Return an asset's pixels: RGBA with straight alpha for a cut-out, RGB for a background."""
    left, top, width, height = asset.box
    return _atlas(asset.atlas)[top : top + height, left : left + width]


@cache
def select(category: str, split: str, family: str = "") -> tuple[Asset, ...]:
    """Return the assets of one category (for backgrounds: of one family) that scenes of a split may show.

    Args:
        category: a category, `clutter` or `background`.
        split: `train` or `validation`.
        family: the backgrounds' family; empty for cut-outs.
    """
    return tuple(
        asset
        for asset in catalogue()
        if (asset.category, asset.split) == (category, split) and family in ("", asset.name)
    )
