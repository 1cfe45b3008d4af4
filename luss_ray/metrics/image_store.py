"""Images' counts for the threshold curve, most of them in a temporary file: memory doesn't grow with their number."""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from luss_ray.metrics.curve_totals import CLASS, EVENT, ImageCurve

BLOCK_IMAGES = 256
"""So many images' counts are held in memory, some 10 MB."""


class ImageStore:
    """A growing sequence of images' counts. Pickled whole."""

    def __init__(self, images: Iterable[ImageCurve] = ()) -> None:
        self._recent: list[ImageCurve] = []
        self._files: list[Path] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._num_images = 0
        self.extend(images)

    def __len__(self) -> int:
        return self._num_images

    def extend(self, images: Iterable[ImageCurve]) -> None:
        """Add images at the end."""
        for image in images:
            self._recent.append(image)
            self._num_images += 1
            if len(self._recent) == BLOCK_IMAGES:
                self._spill()

    def blocks(self) -> Iterator[list[ImageCurve]]:
        """Return all images in their order, a block of them at a time."""
        for file in self._files:
            with np.load(file, allow_pickle=False) as arrays:
                yield from_arrays(dict(arrays))
        if self._recent:
            yield self._recent

    def __iter__(self) -> Iterator[ImageCurve]:
        return chain.from_iterable(self.blocks())

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="luss-ray-curve-")
        file = Path(self._folder.name) / f"{len(self._files)}.npz"
        np.savez(file, allow_pickle=False, **to_arrays(self._recent))
        self._files.append(file)
        self._recent = []

    def __reduce__(self) -> tuple:
        return ImageStore, (list(self),)


def to_arrays(images: Iterable[ImageCurve]) -> dict[str, np.ndarray]:
    """Return images' counts as arrays for `numpy.savez`."""
    images = list(images)
    empty = [ImageCurve(np.zeros(0, CLASS), np.zeros(0, EVENT), True)]
    return {
        "classes": np.concatenate([image.classes for image in empty + images]),
        "events": np.concatenate([image.events for image in empty + images]),
        "num_classes": np.array([len(image.classes) for image in images], np.int64),
        "num_events": np.array([len(image.events) for image in images], np.int64),
        "has_attention": np.array([image.has_attention for image in images], bool),
    }


def from_arrays(arrays: dict[str, np.ndarray]) -> list[ImageCurve]:
    """Return the images that `to_arrays` was given."""
    if not len(arrays["has_attention"]):
        return []
    classes = np.split(arrays["classes"], np.cumsum(arrays["num_classes"])[:-1])
    events = np.split(arrays["events"], np.cumsum(arrays["num_events"])[:-1])
    return list(map(ImageCurve, classes, events, arrays["has_attention"].tolist()))
