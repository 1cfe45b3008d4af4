#!/usr/bin/env -S uv run
"""ImageNet-S as shards, straight from a copy of ImageNet-1k: `python shards/imagenet_s.py --imagenet SRC …`."""

import enum
from dataclasses import dataclass
from pathlib import Path

import tyro

from luss_ray.core.command import parsed, run
from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE, StageProgress
from luss_ray.imagenet_s.lists import SUBSETS, read_subset
from luss_ray.stages.prepare import Preparation, check, prepare
from luss_ray.storage.dataset import Manifest
from luss_ray.storage.imagenet import find_imagenet
from luss_ray.storage.pack_plan import PackSettings
from luss_ray.storage.uri import Location
from luss_ray.train import cluster


class Which(enum.Enum):
    """The subsets by their number of categories."""

    S50 = "50"
    S300 = "300"
    S919 = "919"
    ALL = "all"

    def sizes(self) -> tuple[int, ...]:
        """Return the numbers of categories."""
        return SUBSETS if self is Which.ALL else (int(self.value),)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Pack ImageNet-S into shards from a copy of ImageNet-1k, without another copy of the images in between.

    Images are packed once, by the smallest subset that has their class: each subset's dataset (OUT/imagenet-s-50, …)
    is an index of the shards in OUT/packs. Another subset later packs only what it adds. Run again after an
    interruption, it goes on where it stopped.
    """

    imagenet: str
    """ImageNet-1k, a folder or s3://bucket/prefix: class folders, the original tars (ILSVRC2012_img_train.tar,
    ILSVRC2012_img_val.tar), or WebDataset shards whose members keep ImageNet's file names."""
    lists: Path
    """Folder of the benchmark's lists: `categories`, `mapping`, `names`."""
    annotations: str
    """Folder of the annotation archives: ImageNetS50, ImageNetS300, ImageNetS919 with their masks."""
    subset: Which
    """Which of them."""
    out: str
    """Where to: a folder or s3://bucket/prefix."""
    images_per_shard: int = 1000
    """Samples in a tar file."""
    max_side: int | None = None
    """Reduce images whose longer side has more pixels than this."""
    seed: int = 0
    """Seed of the order in which samples are packed."""
    copy: bool = False
    """Give every subset training shards of its own instead of sharing them."""
    incomplete: bool = False
    """Prepare what is there when images that the lists name are missing, or numbers are not the published ones."""
    max_bad_samples: int | None = None
    """Unreadable images tolerated in each pack; 1 % (at least 10) if not given."""
    log: Path = Path("runs/ray.log")
    """File for what Ray has to say."""


def main(options: Options) -> None:
    """Look through the sources, pack, and say what is where."""
    subsets = {size: read_subset(options.lists, size) for size in SUBSETS}
    annotations = {size: _annotations(Location.parse(options.annotations), size) for size in options.subset.sizes()}
    out = Location.parse(options.out)
    settings = PackSettings(
        images_per_shard=options.images_per_shard,
        max_side_px=options.max_side,
        seed=options.seed,
        max_bad_samples=options.max_bad_samples,
    )
    with StageProgress("looking for images", 1, "tars") as progress:
        imagenet = find_imagenet(Location.parse(options.imagenet), progress.update_total)
    CONSOLE.print(f"{len(imagenet)} ImageNet images in {imagenet.location.uri}")
    given = Preparation(
        imagenet=imagenet,
        subsets=subsets,
        annotations=annotations,
        out=out,
        settings=settings,
        copy=options.copy,
        incomplete=options.incomplete,
    )
    for line in check(given):
        CONSOLE.print(f"note: {line}")
    cluster.join(options.log)
    manifests = prepare(given)
    for size, manifest in manifests.items():
        _print(manifest, subsets[size].name, out, options.copy)


def _annotations(root: Location, size: int) -> Location:
    """Return the folder with a subset's masks: its archive's, or the root itself."""
    for folder in (root / f"ImageNetS{size}", root):
        if folder.list("validation-segmentation", suffix=".png"):
            return folder
    raise UserError(f"no masks of S{size} in {root.uri}: looked for ImageNetS{size}/validation-segmentation")


def _print(manifest: Manifest, name: str, out: Location, copy: bool) -> None:
    counts = ", ".join(f"{split} {numbers['images']}" for split, numbers in manifest.splits.items())
    CONSOLE.print(f"{(out / name / 'dataset' if copy else out / name).uri}  {counts}")
    for bad in manifest.quarantined[:20]:
        CONSOLE.print(f"  left out: {bad['file']}: {bad['reason']}")


if __name__ == "__main__":
    run(lambda: main(parsed(lambda: tyro.cli(Options, config=(tyro.conf.EnumChoicesFromValues,)))))
