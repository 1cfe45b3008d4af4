"""The plan of a packing: which image goes into which shard, decided before anything is written."""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.core.seeds import generator
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.layout import Source, SourceSplit
from luss_ray.storage.dataset import SPLITS
from luss_ray.storage.prepare import image_size

_NUM_HEADERS_AT_ONCE = 16
MAX_SHARD_BYTES = 256 * 2**20
"""A shard is closed before its source files grow beyond this (a single larger file aside)."""


@dataclass(frozen=True, kw_only=True)
class PackSettings:
    """How a folder is packed."""

    images_per_shard: int = 1000
    """Samples in a shard at most."""
    max_side_px: int | None = None
    """Images with a longer side are reduced to it; None keeps every image as it is."""
    seed: int = 0
    """Seed of the order in which samples are packed."""
    max_bad_samples: int | None = None
    """Unreadable images that are tolerated (quarantined); None = 1 %, or 10 if that is more."""

    def __post_init__(self) -> None:
        if self.images_per_shard < 1:
            raise UserError(f"--images-per-shard {self.images_per_shard}: give 1 or more")
        if self.max_side_px is not None and self.max_side_px < 1:
            raise UserError(f"--max-side {self.max_side_px}: give 1 or more pixels")
        if self.max_bad_samples is not None and self.max_bad_samples < 0:
            raise UserError(f"--max-bad-samples {self.max_bad_samples}: give 0 or more")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: give 0 or more")


@dataclass(frozen=True)
class PlannedShard:
    """Which samples go into one shard."""

    name: str
    """Its name below the dataset, e.g. `train/000000.tar`."""
    split: SourceSplit
    """The split of the samples."""
    samples: np.ndarray
    """Places of the samples in `split`, in pack order."""


def plan_shards(source: Source, settings: PackSettings) -> list[PlannedShard]:
    """Return which samples go where: a pure function of the folder's names and sizes and of the settings."""
    return [
        PlannedShard(f"{split.name}/{number:06d}.tar", split, samples)
        for split in source.splits
        for number, samples in enumerate(_cut(split, settings))
    ]


def check_masks(source: Source) -> None:
    """Return when every mask has the size of its image, judged by their headers; else UserError naming it."""
    pairs = [pair for split in source.splits for pair in zip(split.images, split.masks, strict=True) if pair[1]]
    with ThreadPoolExecutor(_NUM_HEADERS_AT_ONCE) as threads:
        for _ in threads.map(lambda pair: _check_mask(source, *pair), pairs):
            pass


def _check_mask(source: Source, image: str, mask: str) -> None:
    try:
        mask_size, size = masks.size(source.mask_files.head(mask)), image_size(source.files.head(image))
    except (BadSampleError, OSError):
        return  # quarantined when it is packed
    if mask_size != size:
        sizes = [f"{width} x {height}" for height, width in (mask_size, size)]
        where = source.mask_files.describe(mask)
        raise UserError(f"the mask {where} has {sizes[0]} pixels, its image {sizes[1]}: they must be equal")


def _cut(split: SourceSplit, settings: PackSettings) -> Iterator[np.ndarray]:
    order = generator(settings.seed, SPLITS.index(split.name)).permutation(len(split.images))
    start, size = 0, 0
    for stop, sample in enumerate(order):
        num_bytes = int(split.sizes[sample])
        if stop > start and (stop - start == settings.images_per_shard or size + num_bytes > MAX_SHARD_BYTES):
            yield order[start:stop]
            start, size = stop, 0
        size += num_bytes
    yield order[start:]


def plan_digest(source: Source, settings: PackSettings, shards: list[PlannedShard]) -> str:
    """Return the SHA-256 that tells whether two packings would give the same shards."""
    digest = hashlib.sha256()
    relevant = {key: value for key, value in asdict(settings).items() if key != "max_bad_samples"}
    digest.update(json.dumps([source.categories, relevant], sort_keys=True).encode())
    for shard in shards:
        split, samples = shard.split, shard.samples
        digest.update(shard.name.encode())
        digest.update(np.ascontiguousarray(split.sizes[samples]).tobytes())
        digest.update("\n".join(f"{split.images[i]}\t{split.masks[i]}" for i in samples).encode("utf-8", "replace"))
    return digest.hexdigest()
