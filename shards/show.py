#!/usr/bin/env -S uv run
"""Say what is in a sharded dataset, and draw a contact sheet: `python shards/show.py URI [--out contact.png]`."""

import io
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

from luss_ray.core.command import parsed, run
from luss_ray.core.errors import UserError
from luss_ray.core.seeds import generator
from luss_ray.data.plan import Plan
from luss_ray.data.shuffle_quality import WINDOW, clumping
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.contact_sheet import Tile, as_html, as_png
from luss_ray.storage.dataset import ShardedDataset, Split
from luss_ray.storage.uri import Location

_NUM_CATEGORIES_SHOWN = 20


def show(
    uri: Annotated[str, tyro.conf.Positional],
    *,
    out: Path | None = None,
    num_images: int = 36,
    split: str | None = None,
    seed: int = 0,
) -> None:
    """Print splits, counts, sizes, categories and class balance of a dataset.

    Args:
        uri: the dataset: a folder or s3://bucket/prefix.
        out: also write a contact sheet with masks laid over the images: a .png or .html file.
        num_images: images on the contact sheet.
        split: split of the contact sheet; one with masks if not given.
        seed: seed of the choice of images.
    """
    if out is not None and out.suffix not in (".png", ".html"):
        raise UserError(f"--out {out}: give a name that ends in .png or .html")
    if num_images < 1:
        raise UserError(f"--num-images {num_images}: give 1 or more")
    dataset = ShardedDataset.open(Location.parse(uri))
    _print_splits(dataset)
    _print_categories(dataset)
    if out is not None:
        _write_sheet(dataset, out, num_images=num_images, split=split, seed=seed)


def _print_splits(dataset: ShardedDataset) -> None:
    manifest, console = dataset.manifest, Console(highlight=False)
    console.print(f"{manifest.name}  {dataset.location.uri}\ndigest {dataset.digest}")
    table = Table("split", box=None)
    for title in ("images", "masks", "shards", "MB", "height px", "width px"):
        table.add_column(title, justify="right")
    for name in dataset.splits:
        split, counts = dataset.split(name), manifest.splits[name]
        sides = [f"{side.min()}..{int(np.median(side))}..{side.max()}" for side in (split.heights, split.widths)]
        numbers = (str(counts[what]) for what in ("images", "masks", "shards"))
        table.add_row(name, *numbers, f"{counts['bytes'] / 1e6:.1f}", *sides)
    console.print(table)
    if manifest.quarantined:
        console.print(f"{len(manifest.quarantined)} source images were left out (named in manifest.json)")


def _print_categories(dataset: ShardedDataset) -> None:
    console = Console(highlight=False)
    if not dataset.categories:
        console.print("no categories: unlabelled images")
        return
    counts = np.bincount(dataset.split("train").class_ids, minlength=len(dataset.categories) + 1)[1:]
    console.print(
        f"{len(dataset.categories)} categories; images each in train: "
        f"{counts.min()} to {counts.max()}, median {int(np.median(counts))}"
    )
    widest = max(1, counts.max())
    for number, (name, count) in enumerate(zip(dataset.categories, counts, strict=True), 1):
        if number <= _NUM_CATEGORIES_SHOWN:
            console.print(f"{number:4d} {name:24} {count:7d} {'█' * round(30 * count / widest)}", markup=False)
    if len(dataset.categories) > _NUM_CATEGORIES_SHOWN:
        console.print(f"     … and {len(dataset.categories) - _NUM_CATEGORIES_SHOWN} more")
    _print_shuffle(dataset, console)


def _print_shuffle(dataset: ShardedDataset, console: Console) -> None:
    split = dataset.split("train")
    plan = Plan(split.shard_ids, seed=0, global_batch=min(WINDOW, len(split)), epochs=1)
    packed, trained = clumping(split.class_ids), clumping(split.class_ids[plan.order(0)])
    console.print(
        f"clumping of classes in {min(WINDOW, len(split))} consecutive images (1 = independent draws): "
        f"{packed:.2f} as packed, {trained:.2f} in a training order"
    )


def _write_sheet(dataset: ShardedDataset, out: Path, *, num_images: int, split: str | None, seed: int) -> None:
    name = split or next((name for name in dataset.splits if dataset.split(name).has_masks), "train")
    chosen = dataset.split(name)
    rows = np.sort(generator(seed).permutation(len(chosen))[:num_images])
    tiles = _tiles(chosen, rows, dataset.categories)
    sheet = as_png(tiles) if out.suffix == ".png" else as_html(tiles, f"{dataset.manifest.name}: {name}")
    target = Location.parse(out.parent)
    target.write(out.name, sheet)
    print(f"contact sheet of {len(tiles)} images from {name}: {out}")


def _tiles(split: Split, rows: np.ndarray, categories: tuple[str, ...]) -> list[Tile]:
    tiles = []
    for row, image, mask in zip(rows, split.read_images(rows), split.read_masks(rows), strict=True):
        class_id = int(split.class_ids[row])
        title = categories[class_id - 1] if class_id else "no category"
        ids = None if mask is None else masks.decode(mask)
        tiles.append(Tile(image=Image.open(io.BytesIO(image)), mask=ids, title=title, key=split.key(row)))
    return tiles


if __name__ == "__main__":
    run(lambda: parsed(lambda: tyro.cli(show)))
