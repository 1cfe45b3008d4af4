"""What is in a folder of images: ImageNet-S's layout, or any folder as one unlabelled split."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from luss_ray.core.errors import UserError

IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"])
_MASK_FOLDERS = {"train-semi": "train-semi-segmentation", "validation": "validation-segmentation"}
_SPLITS = ("train", "train-semi", "validation", "test")
_CATEGORIES = "categories.txt"
HEAD_BYTES = 64 * 1024
"""Enough of an image file to tell its size."""


class Files(Protocol):
    """Files by name; picklable, so that they are read where they are packed."""

    def read(self, name: str) -> bytes:
        """Return a file's content; OSError or UserError if it can't be read."""
        ...

    def head(self, name: str) -> bytes:
        """Return the first 64 KiB of a file."""
        ...

    def describe(self, name: str) -> str:
        """Return where a file is, for messages."""
        ...


@dataclass(frozen=True)
class FolderFiles:
    """Files by their path below a local folder."""

    root: Path

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return (self.root / name).read_bytes()

    def head(self, name: str) -> bytes:
        """Return the first 64 KiB of a file."""
        with (self.root / name).open("rb") as file:
            return file.read(HEAD_BYTES)

    def describe(self, name: str) -> str:
        """Return the file's path."""
        return str(self.root / name)


@dataclass(frozen=True, kw_only=True)
class SourceSplit:
    """The images of one split, sorted by path; all columns have one entry an image."""

    name: str
    """`train`, `train-semi`, `validation` or `test`."""
    images: list[str]
    """Names of the images among the source's files."""
    masks: list[str]
    """Names of the masks among its mask files; empty text where an image has none."""
    keys: list[str]
    """Unique within the split: `<class>/<file stem>`, dots in the stem replaced by `_`."""
    class_ids: np.ndarray
    """Category id, 1-based; 0 = none."""
    sizes: np.ndarray
    """Bytes of image and mask together."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Images ready to be packed."""

    name: str
    """Name for the dataset and for messages."""
    files: Files
    """Where the images are."""
    mask_files: Files
    """Where their masks are."""
    categories: tuple[str, ...]
    """Category names; place i is category id i + 1."""
    splits: tuple[SourceSplit, ...]
    """The splits that have images."""
    num_ignored: int = 0
    """Files that are no images by their name."""
    every_category: bool = True
    """Whether every category must have an image in `train`; a part of a dataset need not."""

    @property
    def num_images(self) -> int:
        """Number of images of all splits."""
        return sum(len(split.images) for split in self.splits)


def find_images(root: Path) -> Source:
    """Return the splits, categories and masks in a folder.

    With a subfolder `train` it is read as ImageNet-S is laid out: `<split>/<class>/*` with masks in
    `<split>-segmentation/<class>/<same stem>.png`. Category ids follow `categories.txt` (one a line) if there is one,
    else the sorted names of the class folders. Images that lie in a split's folder itself have no category. Without a
    subfolder `train` every image below the folder belongs to one unlabelled split `train`.

    Raises:
        UserError: no such folder, no images, a category without images, a class folder that is no category, a mask
            without an image.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give a folder of images with --source")
    try:
        return _find_layout(root) if (root / "train").is_dir() else _find_plain(root)
    except OSError as error:
        raise UserError(f"cannot read {error.filename or root}: {(error.strerror or '').lower()}") from None


def _find_plain(root: Path) -> Source:
    misplaced = [name for name in _SPLITS[1:] if (root / name).is_dir()]
    if misplaced:
        raise UserError(f"{root} has a folder {misplaced[0]} but no folder train: put the training images into train")
    files, num_ignored = _walk(root, root)
    split = _split("train", "", files, {}, {})
    if not split.images:
        raise UserError(f"no images in {root} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    return _source(root, (), (split,), num_ignored)


def _find_layout(root: Path) -> Source:
    categories = _categories(root)
    ids = {name: number for number, name in enumerate(categories, 1)}
    splits, num_ignored = [], 0
    for name in _SPLITS:
        if not (root / name).is_dir():
            continue
        files, num_other = _walk(root, root / name)
        split = _split(name, f"{name}/", files, ids, _masks(root, name))
        num_ignored += num_other
        if split.images:
            splits.append(split)
    if not splits or splits[0].name != "train":
        raise UserError(f"no images in {root / 'train'} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    missing = sorted(set(range(1, len(categories) + 1)) - set(splits[0].class_ids.tolist()))
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"category {categories[missing[0] - 1]}{more} has no images in {root / 'train'}")
    return _source(root, categories, tuple(splits), num_ignored)


def _source(root: Path, categories: tuple[str, ...], splits: tuple[SourceSplit, ...], num_ignored: int) -> Source:
    files, name = FolderFiles(root), root.resolve().name
    return Source(
        name=name, files=files, mask_files=files, categories=categories, splits=splits, num_ignored=num_ignored
    )


def _categories(root: Path) -> tuple[str, ...]:
    folders = {entry.name for name in _SPLITS if (root / name).is_dir() for entry in _folders(root / name)}
    listing = root / _CATEGORIES
    if not listing.is_file():
        return tuple(sorted(folders))
    names = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(set(names)) < len(names):
        raise UserError(f"{listing} names a category twice: every line must be another class folder")
    unknown = sorted(folders - set(names))
    if unknown:
        raise UserError(f"class folder {unknown[0]} is not in {listing}: add it there or remove the folder")
    return tuple(names)


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _masks(root: Path, split: str) -> dict[str, tuple[str, int]]:
    """Return path and size of each mask of a split by `<class>/<stem>`."""
    folder = root / _MASK_FOLDERS.get(split, f"{split}-segmentation")
    if not folder.is_dir():
        return {}
    files, _ = _walk(root, folder)
    masks = [(path, size) for path, size in files if path.lower().endswith(".png")]
    return {_stem(path, f"{folder.name}/"): (path, size) for path, size in masks}


def _split(
    name: str, folder: str, files: list[tuple[str, int]], ids: dict[str, int], masks: dict[str, tuple[str, int]]
) -> SourceSplit:
    stems = [_stem(path, folder) for path, _ in files]
    unpaired = masks.keys() - set(stems)
    if unpaired:
        raise UserError(f"the mask {masks[min(unpaired)][0]} has no image in {name}")
    paired = [masks.get(stem, ("", 0)) for stem in stems]
    return SourceSplit(
        name=name,
        images=[path for path, _ in files],
        masks=[path for path, _ in paired],
        keys=unique_keys(stems),
        class_ids=np.array([ids.get(stem.partition("/")[0], 0) if "/" in stem else 0 for stem in stems], np.int32),
        sizes=np.array([size + mask[1] for (_, size), mask in zip(files, paired, strict=True)], np.int64),
    )


def _stem(path: str, folder: str) -> str:
    """Return a path without the split's folder and its suffix."""
    return path.removeprefix(folder).rpartition(".")[0]


def unique_keys(stems: list[str]) -> list[str]:
    """Return keys for WebDataset, whose readers end a key at the first dot of the file name."""
    keys, seen = [], set()
    for stem in stems:
        folder, slash, name = stem.rpartition("/")
        key = (folder + slash + name.replace(".", "_")).encode(errors="backslashreplace").decode()
        while key in seen:  # one stem with two suffixes, or "a.b" beside "a_b"
            key += "_"
        seen.add(key)
        keys.append(key)
    return keys


def _walk(root: Path, folder: Path) -> tuple[list[tuple[str, int]], int]:
    """Return (path below root, bytes) of all images below a folder, sorted, and the number of other files."""
    found, num_other = [], 0
    for path, size in _files(str(folder)):
        if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 (a million Paths are slow)
            found.append((path[len(str(root)) + 1 :], size))
        else:
            num_other += 1
    return sorted(found), num_other


def _files(folder: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _files(entry.path)
            elif entry.is_file():
                yield entry.path, entry.stat().st_size
            else:
                yield entry.path, 0  # a broken link is quarantined when it is packed
