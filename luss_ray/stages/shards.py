"""Runs a network over a split, shard by shard: a Ray Data pool of actors, each with the network loaded once."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import ray.data
import torch
from jaxtyping import Integer, UInt16
from ray.data import ActorPoolStrategy, DataContext
from torch import Tensor

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.core.progress import StageProgress
from luss_ray.data.augment import normalise
from luss_ray.data.crops import centre_crop, resize_shorter, shape_of_shorter
from luss_ray.data.decode import decode_image, image_size
from luss_ray.imagenet_s import masks
from luss_ray.storage.dataset import Split
from luss_ray.storage.store import be_patient
from luss_ray.train.cluster import Resources
from luss_ray.train.refusals import user_errors

_BATCH_PIXELS = {"cuda": 32 * 256 * 256, "cpu": 3 * 256 * 256}
"""Image pixels of a batch: enough to fill a GPU; on a CPU what stays near its caches."""
_DECODE_THREADS = 2
"""At least; an actor with a GPU has as many as loaders would have beside it."""


class ShardWork(Protocol):
    """What is done with each shard (or any other portion of images); picklable, sent to the actors."""

    def load(self, device: torch.device) -> Any:
        """Return the network, ready on the device; called once in each actor."""
        ...

    def process(self, shard: int, network: Any, device: torch.device) -> list[str]:
        """Publish the results of one shard; return the names of samples that couldn't be used."""
        ...


class ShardActor:
    """Does the work in an actor of Ray Data."""

    def __init__(self, work: ShardWork, num_threads: int) -> None:
        be_patient()
        self.work = work
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(num_threads)
        self.network = work.load(self.device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Process the shards named in a batch."""
        shards = [int(shard) for shard in batch["shard"]]
        with torch.inference_mode():
            bad = [self.work.process(shard, self.network, self.device) for shard in shards]
        return {"shard": shards, "bad": ["\n".join(names) for names in bad]}


def run_over_shards(
    work: ShardWork,
    todo: Sequence[int],
    sizes: Integer[np.ndarray, " shards"],
    name: str,
    resources: Resources,
    *,
    max_bad_samples: int,
    known_bad: Sequence[str] = (),
) -> list[str]:
    """Process the shards `todo` on as many actors as the cluster has room for; return the unusable samples' names.

    Args:
        work: what is done.
        todo: numbers of shards.
        sizes: images in each shard there is.
        name: of the stage, for people.
        resources: what it takes of the cluster.
        max_bad_samples: images that may be unusable.
        known_bad: those of shards that were done before; they are returned, too.

    Raises:
        UserError: more than `max_bad_samples` samples couldn't be used, or a store refused.
    """
    bad = list(known_bad)
    _check_budget(name, bad, max_bad_samples)
    if not todo:
        return bad
    context = DataContext.get_current()
    context.enable_progress_bars = False
    rows = ray.data.from_items([{"shard": shard} for shard in todo], override_num_blocks=len(todo))
    done = rows.map_batches(
        ShardActor,
        fn_constructor_kwargs={
            "work": work,
            "num_threads": resources.num_loaders if resources.use_gpu else resources.num_threads,
        },
        batch_size=1,
        compute=ActorPoolStrategy(min_size=1, max_size=min(resources.num_actors, len(todo))),
        num_cpus=1,
        num_gpus=1 if resources.use_gpu else 0,
    )
    images = 0
    with StageProgress(name, int(sizes[list(todo)].sum()), "images", images_per_unit=1) as progress, user_errors():
        for row in done.iter_rows():
            bad += row["bad"].split("\n") if row["bad"] else []
            images += int(sizes[row["shard"]])
            progress.update(images)
            _check_budget(name, bad, max_bad_samples)
    return bad


def _check_budget(name: str, bad: Sequence[str], most: int) -> None:
    if len(bad) > most:
        raise UserError(
            f"{name}: more than {most} unreadable images (e.g. {bad[0]}); "
            "run shards/verify.py, or allow more with --max-bad-samples"
        )


def decoded_mask(split: Split, row: int, data: bytes) -> UInt16[np.ndarray, "H W"]:
    """Return a sample's true mask.

    Args:
        split: whose sample.
        row: of it.
        data: the mask, encoded.

    Raises:
        UserError: it can't be read; the sample is named.
    """
    try:
        return masks.decode(data)
    except BadSampleError as error:
        raise UserError(f"{split.sample_uri(row)}: {error.reason}; shards/verify.py lists all such") from None


@dataclass(frozen=True)
class Whole:
    """A whole image, resized for the network."""

    row: int
    resized: np.ndarray
    """uint8 (h, w, 3), shorter side as asked."""
    height: int
    """Of the source image."""
    width: int


@dataclass(frozen=True)
class ShardImages:
    """The images of one shard, those of one size after each other; they are decoded while others are worked on."""

    images: Iterable[Whole]
    bad: list[str]
    """Names of samples that couldn't be decoded: all of them once the images have been taken."""

    def batches(
        self, device: torch.device, crop_px: int | None = None, *, normaliser: Callable[[Tensor], Tensor] = normalise
    ) -> Iterator[tuple[list[Whole], Tensor]]:
        """Yield neighbours of one size together, with the normalised batch (n, 3, h, w) on the device.

        Args:
            device: of the network.
            crop_px: side of the central square that is taken of each; None = the whole.
            normaliser: makes (n, 3, h, w) of 8-bit pixels (n, h, w, 3); by ImageNet's mean and deviation unless given.
        """
        waiting: list[Whole] = []
        for whole in self.images:
            image = whole if crop_px is None else replace(whole, resized=centre_crop(whole.resized, crop_px))
            if waiting and (_is_full(waiting, device) or waiting[0].resized.shape != image.resized.shape):
                yield waiting, normaliser(_stacked(waiting, device))
                waiting = []
            waiting.append(image)
        if waiting:
            yield waiting, normaliser(_stacked(waiting, device))


def _is_full(images: list[Whole], device: torch.device) -> bool:
    height, width, _ = images[0].resized.shape
    return (len(images) + 1) * height * width > _BATCH_PIXELS[device.type]


def _stacked(images: list[Whole], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack([image.resized for image in images])).to(device)


def read_shard(split: Split, shard: int, shorter_side_px: int) -> ShardImages:
    """Return the images of a shard with their shorter side resized to `shorter_side_px`; bad ones are put aside."""
    rows = split.shard_rows(shard)
    read = zip(rows.tolist(), split.try_read_images(rows), strict=True)
    return decode_images(read, shorter_side_px, lambda row: f"{split.shard_uri(row)}#{split.key(row)}")


def decode_images(
    read: Iterable[tuple[int, bytes | BadSampleError]], shorter_side_px: int, name: Callable[[int], str]
) -> ShardImages:
    """Return images with their shorter side resized; bad ones are put aside.

    Args:
        read: number and content of each file, or why it couldn't be read.
        shorter_side_px: to which they are resized.
        name: gives what a bad one is called.
    """
    bad: list[str] = []

    def size(numbered: tuple[int, bytes | BadSampleError]) -> tuple[int, int]:
        _, data = numbered
        return shape_of_shorter(*image_size(data), shorter_side_px) if isinstance(data, bytes) else (0, 0)

    def decode(numbered: tuple[int, bytes | BadSampleError]) -> Whole | None:
        row, data = numbered
        if isinstance(data, bytes):
            with contextlib.suppress(BadSampleError):
                image = decode_image(data)
                return Whole(row, resize_shorter(image, shorter_side_px), *image.shape[:2])
        bad.append(name(row))
        return None

    def in_order_of_size() -> Iterator[Whole]:
        pool = ThreadPoolExecutor(max(_DECODE_THREADS, torch.get_num_threads()))
        try:
            yield from filter(None, pool.map(decode, sorted(read, key=size)))
        finally:
            pool.shutdown(cancel_futures=True)
        bad.sort()

    return ShardImages(in_order_of_size(), bad)
