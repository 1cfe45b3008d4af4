"""Segments images of a folder or bucket: a label PNG for each, written by actors, gone on with after a stop."""

import enum
import io
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int64, UInt16
from PIL import Image

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.export.segmenter import Segmenter, label_map, load
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.layout import IMAGE_SUFFIXES
from luss_ray.nn.folding import for_inference
from luss_ray.stages.shards import decode_images, run_over_shards
from luss_ray.storage.uri import Location, json_bytes, parquet_bytes
from luss_ray.train.cluster import Resources

IMAGES, LABELS, PLAN, UNREADABLE = "images.parquet", "labels", "plan.json", "unreadable.json"
_PORTION = 64
"""Images that an actor takes at a time; so many, resized, are in its memory."""
_READ_THREADS = 16
_MOST_COLOURS = 256


class Codec(enum.Enum):
    """How ids are written."""

    IMAGENET_S = "imagenet-s"
    """RGB PNG with id = R + 256 G, as ImageNet-S has it; any number of categories."""
    PALETTE = "palette"
    """PNG with one byte a pixel and a palette of colours, which viewers show; up to 255 categories."""


@dataclass(frozen=True)
class Listing:
    """Which images there are, and what their labels are called."""

    images: Sequence[str]
    labels: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)

    def portions(self) -> Iterator[slice]:
        """Yield neighbours that are worked on together."""
        for start in range(0, len(self), _PORTION):
            yield slice(start, min(start + _PORTION, len(self)))


def find(images: Location, known: Listing | None = None) -> Listing:
    """Return the images that are known and then those below a location that aren't yet, by name.

    Args:
        images: where they are.
        known: found before; they keep their places and the names of their labels.

    Raises:
        UserError: there are none.
    """
    listed, suffixes = known or Listing([], []), tuple(sorted(IMAGE_SUFFIXES))
    found = sorted({name for name in images.list() if name.lower().endswith(suffixes)} - set(listed.images))
    if not found and not len(listed):
        raise UserError(f"no images below {images.uri}: looked for {', '.join(suffixes)}")
    return Listing([*listed.images, *found], [*listed.labels, *_labels(found, set(listed.labels))])


def _labels(found: Sequence[str], taken: set[str]) -> list[str]:
    """Return a name for each image's label, where it can be its own less the suffix; they join those `taken`."""
    stems = [str(PurePosixPath(name).with_suffix("")) for name in found]
    num, labels = Counter(stems), []
    for name, stem in zip(found, stems, strict=True):
        label = f"{stem if num[stem] == 1 else name}.png"
        if label in taken:
            label = next(other for i in itertools.count() if (other := f"{name}{'-' * i}.png") not in taken)
        taken.add(label)
        labels.append(label)
    return labels


@dataclass(frozen=True, kw_only=True)
class SegmentWork:
    """Segments a portion of the images."""

    images: Location
    out: Location
    model: Location
    fingerprint: str
    """Of the model: see `luss_ray.export.segmenter.fingerprint`."""
    codec: Codec
    palette: tuple[str, ...]
    """A colour "#rrggbb" for each id but 0."""

    def load(self, device: torch.device) -> tuple[Segmenter, Listing, list[slice]]:
        """Return the model and the list of images, which every actor reads once."""
        listing = read_listing(self.out)
        return for_inference(load(self.model.uri), device), listing, list(listing.portions())

    def process(self, shard: int, network: Any, device: torch.device) -> list[str]:
        """Write the labels of a portion's images."""
        model, listing, portions = network
        names, targets = listing.images[portions[shard]], listing.labels[portions[shard]]
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            read = enumerate(pool.map(self._read, names))
            decoded = decode_images(read, model.config.shorter_side_px, lambda number: names[number])
            writing = []
            for images, batch in decoded.batches(device, normaliser=model.normalise):
                for image, pixels, logits in zip(images, batch, model(batch), strict=True):
                    ids = label_map(logits, pixels, (image.height, image.width), model.config.guided_radius)
                    writing.append(pool.submit(self.out.write, f"{LABELS}/{targets[image.row]}", self.encode(ids)))
            for written in writing:
                written.result()
        return decoded.bad

    def _read(self, name: str) -> bytes | BadSampleError:
        try:
            return self.images.read(name)
        except FileNotFoundError:
            return BadSampleError("it has gone")

    def encode(self, ids: UInt16[np.ndarray, "h w"]) -> bytes:
        """Return a label map as its PNG."""
        if self.codec is Codec.IMAGENET_S:
            return masks.encode(ids)
        picture = Image.fromarray(ids.astype(np.uint8), mode="P")
        picture.putpalette([0, 0, 0, *(int(colour[at : at + 2], 16) for colour in self.palette for at in (1, 3, 5))])
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        return stream.getvalue()


@dataclass(frozen=True)
class Todo:
    """What is left to do."""

    listing: Listing
    """All images."""
    portions: list[int]
    """Numbers of the portions of which labels are missing."""
    sizes: Int64[np.ndarray, " portions"]
    """Images in each portion there is."""

    @property
    def num_images(self) -> int:
        """Images in the portions that are left."""
        return int(self.sizes[self.portions].sum())


def find_todo(work: SegmentWork, num_names: int, *, dry: bool = False) -> Todo:
    """Return what is left to do, and write down which images there are.

    Args:
        work: what is to be done.
        num_names: ids that the model gives.
        dry: write nothing.

    Raises:
        UserError: there are no images, the output is of another job or another model, or it can't be written.
    """
    if work.codec is Codec.PALETTE and num_names > _MOST_COLOURS:
        raise UserError(f"a palette has {_MOST_COLOURS} colours, the model {num_names} categories: leave --palette out")
    listing = _plan(work, dry=dry)
    there = set(work.out.list(f"{LABELS}/"))
    portions = list(listing.portions())
    left = [
        number
        for number, portion in enumerate(portions)
        if any(f"{LABELS}/{label}" not in there for label in listing.labels[portion])
    ]
    sizes = np.array([portion.stop - portion.start for portion in portions])
    return Todo(listing, left, sizes)


def segment(work: SegmentWork, todo: Todo, resources: Resources, *, max_bad_samples: int | None) -> None:
    """Write the labels of the images that have none yet.

    Args:
        work: what is done.
        todo: which of them.
        resources: what it takes of the cluster.
        max_bad_samples: unreadable images that are put aside before it is given up; None = 1 %, at least 10.

    Raises:
        UserError: too many images can't be read, or a store refused.
    """
    most = max(10, len(todo.listing) // 100) if max_bad_samples is None else max_bad_samples
    bad = run_over_shards(work, todo.portions, todo.sizes, "segmenting", resources, max_bad_samples=most)
    work.out.write_json(UNREADABLE, sorted(bad))


def _plan(work: SegmentWork, *, dry: bool) -> Listing:
    """Write down which images there are: those listed when this was begun, then those added since."""
    begun = work.out.exists(PLAN)
    if begun:
        _check_same(work)
    known = read_listing(work.out) if begun and work.out.exists(IMAGES) else None
    listing = find(work.images, known)
    if dry or (known and len(listing) == len(known)):
        return listing
    work.out.check_writable()
    if not work.out.create(PLAN, json_bytes(_about(work))):
        _check_same(work)  # another job may have begun just now
    table = pa.table({"image": listing.images, "label": listing.labels})
    work.out.write(IMAGES, parquet_bytes(table))
    return listing


def _about(work: SegmentWork) -> dict[str, str]:
    """Return what labels follow from, beside the images that are listed."""
    about = {"images": work.images.uri, "model": work.model.uri, "codec": work.codec.value}
    return about | {"fingerprint": work.fingerprint}


def _check_same(work: SegmentWork) -> None:
    """Refuse labels that were begun with anything else."""
    theirs, mine = work.out.read_json(PLAN), _about(work)
    changed = [name for name in mine if theirs.get(name) != mine[name]]
    if changed == ["fingerprint"]:
        raise UserError(
            f"labels in {work.out.uri} are of other weights or settings than {work.model.uri} has now: "
            "give another --out"
        )
    if changed:
        said = [f"{name} {theirs.get(name)} there, {mine[name]} here" for name in changed if name != "fingerprint"]
        raise UserError(f"{work.out.uri} holds other labels ({', '.join(said)}): choose another --out")


def read_listing(out: Location) -> Listing:
    """Return the images that were written down when labels were begun here."""
    table = out.read_table(IMAGES)
    return Listing(table["image"].to_pylist(), table["label"].to_pylist())
