#!/usr/bin/env -S uv run
"""Pack a folder of images into tar shards, on local disk or in S3: `python shards/build.py --source DIR --out URI`."""

from pathlib import Path

import tyro

from luss_ray.core.command import parsed, run
from luss_ray.core.progress import StageProgress
from luss_ray.imagenet_s.layout import find_images
from luss_ray.storage.dataset import Manifest
from luss_ray.storage.pack import pack
from luss_ray.storage.pack_plan import PackSettings
from luss_ray.storage.uri import Location

_NUM_SHOWN = 20


def build(
    *,
    source: Path,
    out: str,
    images_per_shard: int = 1000,
    max_side: int | None = None,
    seed: int = 0,
    max_bad_samples: int | None = None,
    name: str | None = None,
) -> None:
    """Pack a folder of images into tar shards. Run again after an interruption, it goes on where it stopped.

    Args:
        source: folder in ImageNet-S layout (train/<class>/*, validation/…, validation-segmentation/…), or any folder
            of images, which become one split without labels.
        out: where to: a folder or s3://bucket/prefix.
        images_per_shard: samples in a tar file.
        max_side: reduce images whose longer side has more pixels than this.
        seed: seed of the order in which samples are packed.
        max_bad_samples: how many unreadable images are tolerated; 1 % (at least 10) if not given.
        name: the dataset's name; the folder's name if not given.
    """
    location = Location.parse(out)
    settings = PackSettings(
        images_per_shard=images_per_shard, max_side_px=max_side, seed=seed, max_bad_samples=max_bad_samples
    )
    found = find_images(source)
    if found.num_ignored:
        print(f"{found.num_ignored} files in {source} are no images by their name and are left out")
    with StageProgress("packing", found.num_images, "images", images_per_unit=1) as progress:
        manifest = pack(found, location, settings, name=name, on_progress=progress.update)
    _print_result(manifest, location)


def _print_result(manifest: Manifest, location: Location) -> None:
    for bad in manifest.quarantined[:_NUM_SHOWN]:
        print(f"left out: {bad['file']}: {bad['reason']}")
    if len(manifest.quarantined) > _NUM_SHOWN:
        print(
            f"left out: {len(manifest.quarantined) - _NUM_SHOWN} more, all named in {location.child('manifest.json')}"
        )
    for split, counts in manifest.splits.items():
        masks = f", {counts['masks']} with masks" if counts["masks"] else ""
        size = f"{counts['bytes'] / 1e6:.1f} MB"
        shards = f"{counts['shards']} shard{'s' * (counts['shards'] != 1)}"
        print(f"{split}: {counts['images']} images{masks} in {shards}, {size}")
    print(f"{location.uri}  {manifest.digest[:16]}")


if __name__ == "__main__":
    run(lambda: parsed(lambda: tyro.cli(build)))
