"""A user's copy of ImageNet-1k, whatever form it has, read in place: class folders, the original tars, or shards."""

import io
import re
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from luss_ray.core.errors import UserError
from luss_ray.imagenet_s.layout import HEAD_BYTES
from luss_ray.storage.tar import scan_tar
from luss_ray.storage.uri import Location

_TRAIN, _VALIDATION = re.compile(r"n\d{8}_\d+"), re.compile(r"ILSVRC2012_val_\d{8}")
_IMAGES = (".jpeg", ".jpg", ".png")
_CLASS_TAR = re.compile(r"n\d{8}\.tar")
_NUM_SCANS = 16
"""So many tars are looked through at once: each waits for its storage most of the time."""


class Place(NamedTuple):
    """Where an image is."""

    stem: str
    """Its file name without the suffix: `n01443537_23292`."""
    file: str
    """The file that holds it, below the copy's location."""
    offset: int
    """Its first byte there."""
    size_bytes: int
    """Its size; -1 where the file is the image."""


@dataclass(frozen=True)
class ImageNet:
    """The images of a copy of ImageNet-1k by their stems; columns are sorted by stem."""

    location: Location
    files: list[str]
    stems: np.ndarray
    file_ids: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, location: Location, places: Iterable[Place]) -> "ImageNet":
        """Return the index of images at these places; of two with one stem the first is taken."""
        rows = list(dict.fromkeys(sorted(places)))
        stems = np.array([place.stem for place in rows], "S32")
        kept = np.flatnonzero(np.append(True, stems[1:] != stems[:-1])[: len(rows)])
        numbers: dict[str, int] = {}
        file_ids = [numbers.setdefault(place.file, len(numbers)) for place in rows]
        return cls(
            location,
            list(numbers),
            stems[kept],
            np.array(file_ids, np.int32)[kept],
            np.array([place.offset for place in rows], np.int64)[kept],
            np.array([place.size_bytes for place in rows], np.int64)[kept],
        )

    def __len__(self) -> int:
        return len(self.stems)

    def __contains__(self, stem: str) -> bool:
        row = int(np.searchsorted(self.stems, stem.encode()))
        return row < len(self.stems) and self.stems[row] == stem.encode()

    def train_stems(self) -> list[str]:
        """Return the stems of the training images, sorted: by class, which is the start of a stem."""
        return [stem for stem in self.stems.astype(str).tolist() if stem.startswith("n")]

    def size_of(self, stem: str) -> int:
        """Return the size of an image in bytes, 0 where only its file knows it."""
        return max(0, int(self.sizes[self._row(stem)]))

    def read(self, name: str) -> bytes:
        """Return an image by its stem."""
        return self._read(name, None)

    def head(self, name: str) -> bytes:
        """Return the first 64 KiB of an image."""
        return self._read(name, HEAD_BYTES)

    def describe(self, name: str) -> str:
        """Return where an image is."""
        uri = self.location.child(self.files[self.file_ids[self._row(name)]]).uri
        return uri if self.sizes[self._row(name)] < 0 else f"{uri}#{name}"

    def _read(self, name: str, most: int | None) -> bytes:
        row = self._row(name)
        file, size = self.files[self.file_ids[row]], int(self.sizes[row])
        if size < 0:
            data = self.location.read(file)
            return data if most is None else data[:most]
        return self.location.read_range(file, int(self.offsets[row]), size if most is None else min(size, most))

    def _row(self, stem: str) -> int:
        return int(np.searchsorted(self.stems, stem.encode()))


def find_imagenet(location: Location, on_tar: Callable[[int, int], None] = lambda done, total: None) -> ImageNet:
    """Return the images of a copy of ImageNet-1k.

    Every image is known by its name, so all forms are found alike, and mixtures of them: class folders or flat ones
    (`train/n01440764/n01440764_10026.JPEG`, `val/ILSVRC2012_val_00000293.JPEG`), the original tars (a tar of tars
    for training, a flat one for validation), and WebDataset shards whose members keep those names.

    Args:
        location: folder or s3:// prefix.
        on_tar: is told how many of how many tars, those within others included, were looked through.

    Raises:
        UserError: nothing of ImageNet is there, or a tar is damaged.
    """
    names = location.list()
    places = [Place(stem, name, 0, -1) for name in names if (stem := _stem(name)) is not None]
    tars = [_Tar(name) for name in names if name.endswith(".tar")]
    places += _in_tars(location, tars, on_tar)
    if not places:
        raise UserError(
            f"{location.uri} holds no ImageNet images: looked for names like n01440764_10026.JPEG and "
            f"ILSVRC2012_val_00000293.JPEG in {len(names)} files, {len(tars)} of them tars"
        )
    return ImageNet.of(location, places)


def _stem(name: str) -> str | None:
    """Return the stem of an ImageNet image, or None for other files."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    if (dot + suffix).lower() not in _IMAGES:
        return None
    return stem if _TRAIN.fullmatch(stem) or _VALIDATION.fullmatch(stem) else None


class _Tar(NamedTuple):
    """A file that is a tar, or the part of one that is a class's tar."""

    file: str
    offset: int = 0
    size_bytes: int = -1


def _in_tars(location: Location, tars: list[_Tar], on_tar: Callable[[int, int], None]) -> list[Place]:
    """Return the images in tars, and in the class tars within them."""
    places: list[Place] = []
    with ThreadPoolExecutor(_NUM_SCANS) as pool:
        scans: set[Future] = {pool.submit(_in_tar, location, tar) for tar in tars}
        done, total = 0, len(scans)
        try:
            while scans:
                finished, scans = wait(scans, return_when=FIRST_COMPLETED)
                for scan in finished:
                    found, inner = scan.result()
                    places += found
                    scans |= {pool.submit(_in_tar, location, tar) for tar in inner}
                    total += len(inner)
                done += len(finished)
                on_tar(done, total)
        finally:
            pool.shutdown(cancel_futures=True)
    return places


def _in_tar(location: Location, tar: _Tar) -> tuple[list[Place], list[_Tar]]:
    """Return the images in a tar, and the class tars in it."""
    images, inner = [], []
    with location.open(tar.file) as stream:
        try:
            for member in scan_tar(stream if tar.size_bytes < 0 else _Window(stream, tar.offset, tar.size_bytes)):
                offset = tar.offset + member.offset
                if (stem := _stem(member.name)) is not None:
                    images.append(Place(stem, tar.file, offset, member.size_bytes))
                elif _CLASS_TAR.fullmatch(member.name.rpartition("/")[2]):
                    inner.append(_Tar(tar.file, offset, member.size_bytes))
        except ValueError as error:
            raise UserError(f"{location.child(tar.file).uri}: {error}") from None
    return images, inner


class _Window(io.BufferedIOBase):
    """A part of a seekable stream as a stream of its own."""

    def __init__(self, stream: io.BufferedIOBase, start: int, size: int) -> None:
        self._stream, self._start, self._size, self._at = stream, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        size = left if size is None or size < 0 else min(size, left)
        self._stream.seek(self._start + self._at)
        data = self._stream.read(size)
        self._at += len(data)
        return data
