#!/usr/bin/env -S uv run
"""Segments your images with a finished model: `python jobs/segment.py --model RUN --images FOLDER --out FOLDER`.

Every image gets labels/NAME.png of its own size, an even choice of them overlays and a page, index.html. It goes on
where it was stopped, with images that were added since, over as many nodes as the cluster has.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from luss_ray.core.command import parsed, run
from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE
from luss_ray.storage.uri import Location
from luss_ray.train import cluster


@dataclass(frozen=True, kw_only=True)
class Options:
    """Segments images with a finished model."""

    model: str
    """A finished run, or its model/ folder; here or in s3://."""
    images: str
    """Folder or s3://bucket/prefix of images, with all that is below it."""
    out: str
    """Folder or s3://bucket/prefix for labels/, overlays/ and index.html; the same one goes on where it stopped, with
    images that were added since."""
    palette: bool = False
    """Write one byte a pixel and a palette of colours, which any viewer shows, rather than ImageNet-S' codec (id = R +
    256 G)."""
    num_shown: int = 60
    """Images on the page; 0 = no page."""
    max_bad_samples: int | None = None
    """Unreadable images that are put aside before it is given up; by default 1 %, at least 10."""
    dry_run: bool = False
    """Say what would be done, and whether it could be; do and write nothing."""
    log: Path = Path("runs/ray.log")
    """Local file for what Ray has to say."""


def _within(inner: Location, outer: Location) -> bool:
    return f"{inner.uri}/".startswith(f"{outer.uri.rstrip('/')}/")


def main(options: Options) -> None:
    """Segment, and say where the results are."""
    images, out = Location.parse(options.images), Location.parse(options.out)
    if _within(out, images):
        raise UserError(f"--out {out.uri} lies within --images: its pictures would be taken for images; choose another")
    # Imported once the command line is known to be right: it takes seconds.
    from luss_ray.export.segmenter import fingerprint, load, model_folder
    from luss_ray.protocols.flops import cost, flops_of
    from luss_ray.protocols.plan import LABEL_BYTES
    from luss_ray.report.segments import OVERLAYS, PAGE, PHOTOS, colours_of, write_gallery
    from luss_ray.stages.segment import LABELS, UNREADABLE, Codec, SegmentWork, find_todo, segment

    for own in (LABELS, OVERLAYS, PHOTOS):
        if _within(images, out / own):
            raise UserError(f"--images {images.uri} is where --out {out.uri} keeps its {own}: choose another --out")
    folder, model = model_folder(Location.parse(options.model)), load(options.model)
    names = model.names
    colours = colours_of(len(names) - 1)
    work = SegmentWork(
        images=images,
        out=out,
        model=folder,
        fingerprint=fingerprint(folder),
        codec=Codec.PALETTE if options.palette else Codec.IMAGENET_S,
        palette=colours,
    )
    todo = find_todo(work, len(names), dry=options.dry_run)
    listing = todo.listing
    if options.dry_run:
        CONSOLE.print(f"{len(listing):,} images below {images.uri}, {todo.num_images:,} of them to do")
        size = f"about {todo.num_images * LABEL_BYTES / 1e6:,.1f} MB at ImageNet's sizes"
        CONSOLE.print(f"labels would go to {out / LABELS}, a PNG of each image's own size, {size}")
        CONSOLE.print(cost(todo.num_images * flops_of(model.network, model.config.shorter_side_px)))
        CONSOLE.print("nothing has been written")
        return
    segment(work, todo, cluster.connect(options.log, None), max_bad_samples=options.max_bad_samples)
    num_bad = len(out.read_json(UNREADABLE))
    if options.num_shown > 0:
        last, num = len(listing) - 1, min(options.num_shown, len(listing))
        chosen: list[int] = np.linspace(0, last, num).round().astype(int).tolist()
        pairs = [(listing.images[row], f"{LABELS}/{listing.labels[row]}") for row in chosen]
        write_gallery(images, out, pairs, names, colours)
        CONSOLE.print(f"page    {out / PAGE}")
    unreadable = f", {num_bad} unreadable: {out / UNREADABLE}" if num_bad else ""
    CONSOLE.print(f"labels  {len(listing) - num_bad} of {len(listing)} in {out / LABELS}{unreadable}")


if __name__ == "__main__":
    run(lambda: main(parsed(lambda: tyro.cli(Options))))
