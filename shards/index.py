#!/usr/bin/env -S uv run
"""Index WebDataset shards where they lie, so that they can be used as they are: `python shards/index.py URI`."""

from pathlib import Path
from typing import Annotated

import tyro

from luss_ray.core.command import parsed, run
from luss_ray.core.errors import UserError
from luss_ray.core.progress import StageProgress
from luss_ray.storage.foreign import IndexSettings, index_shards
from luss_ray.storage.uri import Location


def index(
    uri: Annotated[str, tyro.conf.Positional],
    *,
    train: str = "*.tar",
    validation: str | None = None,
    test: str | None = None,
    categories: Path | None = None,
    name: str | None = None,
    max_bad_samples: int | None = None,
) -> None:
    """Read the tars below a folder once and write an index beside them; the tars stay as they are.

    Args:
        uri: the folder of the shards, here or s3://bucket/prefix. Index and manifest are written there.
        train: which of the tars hold training images, a pattern for their names below the folder.
        validation: the same for validation images, e.g. 'imagenet-val-*.tar'.
        test: the same for test images.
        categories: file with the names of the classes that .cls members number, one a line.
        name: the dataset's name; the folder's if not given.
        max_bad_samples: how many unreadable samples are left out; 1 % (at least 10) if not given.
    """
    location = Location.parse(uri)
    patterns = {"validation": validation, "test": test, "train": train}
    settings = IndexSettings(
        patterns={split: pattern for split, pattern in patterns.items() if pattern},
        categories=() if categories is None else _lines(categories),
        max_bad_samples=max_bad_samples,
    )
    with StageProgress("indexing", 1, "shards") as progress:
        manifest = index_shards(
            location, settings, name=name or location.uri.rpartition("/")[2], on_shard=progress.update_total
        )
    for bad in manifest.quarantined[:20]:
        print(f"left out: {bad['file']}: {bad['reason']}")
    for split, counts in manifest.splits.items():
        print(f"{split}: {counts['images']} images in {counts['shards']} shards, {counts['bytes'] / 1e6:.1f} MB")
    print(f"{location.uri}  {manifest.digest[:16]}")


def _lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the categories in {path} ({type(error).__name__})") from None


if __name__ == "__main__":
    run(lambda: parsed(lambda: tyro.cli(index)))
