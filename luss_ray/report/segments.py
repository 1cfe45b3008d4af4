"""A page of pictures with what was found in them, for `jobs/segment.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from luss_ray.core.errors import BadSampleError
from luss_ray.core.progress import StageProgress
from luss_ray.data.decode import decode_image
from luss_ray.imagenet_s import masks
from luss_ray.report.colours import palette
from luss_ray.report.data import OTHER
from luss_ray.report.pictures import WEBP_QUALITY, fit, label_picture, shares
from luss_ray.storage.uri import Location

OVERLAYS, PHOTOS, PAGE = "overlays", "photos", "index.html"
SIDE_PX = 360
_MIN_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image of the page."""

    name: str
    photo: str
    overlay: str
    found: list[tuple[str, str, str]]
    """Name, colour and share of what is in it, the largest first."""


def colours_of(num: int) -> tuple[str, ...]:
    """Return a colour for each of `num` ids, from 1 on."""
    return tuple(palette(num))


def write_gallery(
    images: Location, out: Location, pairs: Sequence[tuple[str, str]], names: Sequence[str], colours: Sequence[str]
) -> None:
    """Write overlays of some images and a page that shows them; those whose label isn't there are left out.

    Args:
        images: where they are.
        out: folder of the page.
        pairs: name of each image and of its label below `out`.
        names: of the ids, "other" first.
        colours: of the ids from 1 on.
    """
    by_id, shown = dict(enumerate(colours, start=1)), []
    with StageProgress("gallery", len(pairs), "images") as progress:
        for number, (name, label) in enumerate(pairs):
            try:
                photo, ids = decode_image(images.read(name)), masks.decode(out.read(label))
            except (BadSampleError, FileNotFoundError):
                continue
            stem = f"{number:04d}.webp"
            out.write(f"{PHOTOS}/{stem}", _webp(fit(photo, SIDE_PX)))
            out.write(f"{OVERLAYS}/{stem}", _webp(label_picture(photo, ids, by_id, side_px=SIDE_PX)))
            found = [
                (names[i], by_id[i], f"{share:.0%}")
                for i, share in shares(ids).items()
                if i != OTHER and share >= _MIN_SHARE
            ]
            shown.append(Shown(name=name, photo=f"{PHOTOS}/{stem}", overlay=f"{OVERLAYS}/{stem}", found=found))
            progress.update(number + 1)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("segments.html.j2").render(shown=shown, title=images.uri)
    out.write(PAGE, page.encode())


def _webp(image: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "WEBP", quality=WEBP_QUALITY, method=4)
    return stream.getvalue()
