"""The dataset of a run: shards at a URI, a folder of images that is packed on the spot, or the embedded demo."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from luss_ray.config.recipe import Recipe, digest
from luss_ray.core.errors import UserError
from luss_ray.core.progress import StageProgress, done_line
from luss_ray.demo.build import build
from luss_ray.demo.variants import VARIANTS
from luss_ray.imagenet_s.layout import Source, find_images
from luss_ray.storage.dataset import MANIFEST, ShardedDataset
from luss_ray.storage.pack import pack
from luss_ray.storage.pack_plan import PackSettings, plan_digest, plan_shards
from luss_ray.storage.uri import Location

_DEMO_IMAGES_PER_SHARD = 500


class NotPackedError(UserError):
    """A dry run met images that the job would first make shards of.

    Args:
        source: what they are, in words.
        target: where the shards would lie.
        images: by split.
        num_bytes: of the images' files; 0 where they are still to be made.
        num_categories: that are named, 0 where none is.
    """

    def __init__(
        self, source: str, target: Location, images: Mapping[str, int], *, num_bytes: int, num_categories: int
    ) -> None:
        super().__init__(
            f"--dry-run: {source} is not packed yet; pack it first (shards/build.py), or start jobs/pass.py"
        )
        self.source, self.target, self.images = source, target, images
        self.num_bytes, self.num_categories = num_bytes, num_categories


def open_dataset(
    data: str | None, recipe: Recipe, storage: Location, max_bad_samples: int | None, *, dry: bool = False
) -> ShardedDataset:
    """Return the dataset that `--data` names.

    Args:
        data: URI of a sharded dataset, or a local folder of images; None = the recipe's own demo.
        recipe: what runs on it.
        storage: packed folders and the demo are kept below it, in `datasets/`.
        max_bad_samples: unreadable images tolerated while packing; None = 1 %, at least 10.
        dry: write nothing.

    Raises:
        NotPackedError: nothing may be written, and it isn't packed.
        UserError: there is no such data, or the recipe has none of its own.
    """
    if data is None:
        return _demo(recipe, storage, dry=dry)
    location = Location.parse(data)
    if location.is_local and not location.exists(MANIFEST):
        return _packed(location.local_path, storage, max_bad_samples, dry=dry)
    return ShardedDataset.open(location)


def _demo(recipe: Recipe, storage: Location, *, dry: bool) -> ShardedDataset:
    if recipe.demo_dataset is None:
        raise UserError(
            f"{recipe.recipe_name} has no data of its own: give --data URI of a dataset made by shards/build.py"
        )
    variant = VARIANTS[recipe.demo_dataset]
    location = storage / "datasets" / f"{variant.name}-{digest(asdict(variant))[:8]}"
    if location.exists(MANIFEST):
        return ShardedDataset.open(location)
    if dry:
        num_semi = variant.num_train_semi * len(variant.categories)
        images = {"train": variant.num_train, "train-semi": num_semi, "validation": variant.num_validation}
        source, categories = f"{variant.name}, which is composed in a minute,", len(variant.categories)
        raise NotPackedError(source, location, images, num_bytes=0, num_categories=categories)
    location.check_writable()
    with tempfile.TemporaryDirectory(prefix="luss-ray-demo-") as folder:
        with StageProgress("composing scenes", 1, "scenes") as progress:
            build(Path(folder), variant=variant, progress=progress.update_total)
        settings = PackSettings(images_per_shard=_DEMO_IMAGES_PER_SHARD)
        _pack(find_images(Path(folder)), location, variant.name, settings)
    return ShardedDataset.open(location)


def _packed(folder: Path, storage: Location, max_bad_samples: int | None, *, dry: bool) -> ShardedDataset:
    if not folder.is_dir():
        raise UserError(f"{folder} is neither a dataset nor a folder of images")
    found, settings = find_images(folder), PackSettings(max_bad_samples=max_bad_samples)
    planned = plan_digest(found, settings, plan_shards(found, settings))  # a folder that has grown is another dataset
    location = storage / "datasets" / f"{folder.name}-{digest([str(folder), planned])[:8]}"
    if dry and not location.exists(MANIFEST):
        images = {split.name: len(split.images) for split in found.splits}
        num_bytes = sum(int(split.sizes.sum()) for split in found.splits)
        raise NotPackedError(str(folder), location, images, num_bytes=num_bytes, num_categories=len(found.categories))
    if not dry:
        _pack(found, location, folder.name, settings)
    return ShardedDataset.open(location)


def _pack(source: Source, location: Location, name: str, settings: PackSettings) -> None:
    with StageProgress("packing", source.num_images, "images", images_per_unit=1) as progress:
        manifest = pack(source, location, settings, name=name, on_progress=progress.update)
    seconds = progress.seconds
    images = sum(counts["images"] for counts in manifest.splits.values())
    done_line("dataset", seconds, f"{images} images in {location.uri}")
