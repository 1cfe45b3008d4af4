"""Streams one rank's slice of every global batch through Ray Data: read, decode, crop; uint8 comes out.

The pipeline's rows are step numbers, so its order is the plan's order and resuming is starting at another number.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import ray.data
import torch
from jaxtyping import Int
from ray.data import ActorPoolStrategy, DataContext
from ray.data._internal.datasource.range_datasource import RangeDatasource

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.core.seeds import CROPS, uniforms
from luss_ray.data.plan import Plan
from luss_ray.data.rest import Rest
from luss_ray.storage.dataset import Rows, ShardedDataset, Split
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.store import be_patient
from luss_ray.storage.uri import Location

_CHUNK_BYTES = 32 << 20
_MAX_CHUNK_STEPS = 16
_CHUNKS_AT_ONCE = 2
_REPLACEMENT_STRIDE = 7919
_MAX_REPLACEMENTS = 100

Batch = dict[str, np.ndarray]
"""The transform's arrays, and `epoch`, `row`, `used_row` of each sample."""


@runtime_checkable
class Transform(Protocol):
    """What happens to one sample between the object store and the training step."""

    @property
    def num_uniforms(self) -> int:
        """Uniform numbers that one sample takes."""
        ...

    def __call__(self, image: bytes, label: bytes | None, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays (uint8, or integers) of one sample; `draws` are its own uniforms in [0, 1)."""
        ...


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """Which samples are streamed in which order, and what is made of them."""

    data: Location
    """The sharded dataset."""
    split: str
    """The split that is read."""
    labels: Location | None
    """Parallel shards of labels, where the transform wants them."""
    masks: bool = False
    """Whether the transform wants the split's own masks as labels."""
    seed: int
    global_batch: int
    """Images in a global batch, over all ranks."""
    epochs: int
    transform: Transform

    def open_split(self) -> Split:
        """Return the samples."""
        return ShardedDataset.open(self.data).split(self.split)

    def open_plan(self) -> Plan:
        """Return the canonical order of the samples."""
        shard_ids = self.open_split().shard_ids
        return Plan(shard_ids, seed=self.seed, global_batch=self.global_batch, epochs=self.epochs)


class Loader:
    """Makes one rank's part of global batches; lives in an actor of Ray Data.

    It is given a *chunk* at a time: consecutive steps, whose rows are neighbours in their shards, lane by lane. All of
    them are read at once, in large ranges, and decoded step by step. Two chunks are under way in an actor, so that one
    is read while the other is decoded and the store's latency is hidden.
    """

    def __init__(self, *, spec: StreamSpec, rank: int, world: int, start_step: int, num_threads: int) -> None:
        be_patient()
        self.spec, self.rank, self.world, self.start_step = spec, rank, world, start_step
        self.split = spec.open_split()
        self.read_labels = self._label_source()
        self.plan = spec.open_plan()
        self.num_threads, self.pool = num_threads, ThreadPoolExecutor(num_threads)
        torch.set_num_threads(1)

    def _label_source(self) -> Callable[[Rows], list[bytes | None]]:
        if self.spec.labels:
            return LabelShards(self.spec.labels, self.split).read
        if self.spec.masks:
            return self.split.try_read_masks
        return lambda rows: [None] * len(rows)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the slices of a chunk of steps, counted from the first of this pipeline."""
        yield from self.load(self.start_step + batch["id"])

    def load(self, steps: Int[np.ndarray, " n"]) -> Iterator[dict[str, np.ndarray]]:
        """Yield this rank's slice of each step: the transform's arrays and (epoch, row, used_row)."""
        slices = [self.plan.slice(int(step), self.rank, self.world) for step in steps]
        rows = np.concatenate([rows for _, rows in slices])
        images = self.split.try_read_images(rows)
        labels = self.read_labels(rows)
        first = 0
        for epochs, rows in slices:
            here = slice(first, first := first + len(rows))
            yield self._batch(epochs, rows, images[here], labels[here])

    def _batch(
        self,
        epochs: Int[np.ndarray, " b"],
        rows: Int[np.ndarray, " b"],
        images: list[bytes | BadSampleError],
        labels: Sequence[bytes | None],
    ) -> dict[str, np.ndarray]:
        draws = uniforms(self.spec.seed, CROPS, epochs.tolist(), rows.tolist(), self.spec.transform.num_uniforms)
        arrays: dict[str, np.ndarray] = {}
        used = np.empty_like(rows)

        def make(place: int) -> None:
            used[place], sample = self._sample(int(rows[place]), images[place], labels[place], draws[place])
            for name, array in sample.items():
                if place == 0:
                    arrays[name] = np.empty((len(rows), *array.shape), array.dtype)
                arrays[name][place] = array

        def make_every(start: int) -> None:
            for place in range(start, len(rows), self.num_threads):
                make(place)

        make(0)  # its arrays show the shapes of all
        # A task for each thread rather than for each image, whose wake-ups would take a twentieth of the time.
        list(self.pool.map(make_every, range(1, 1 + self.num_threads)))
        return arrays | {"epoch": epochs, "row": rows, "used_row": used}

    def _sample(
        self, row: int, image: bytes | BadSampleError, label: bytes | None, draws: np.ndarray
    ) -> tuple[int, dict[str, np.ndarray]]:
        """Return the sample of a row, or of the first readable one on a walk that depends on the row alone."""
        used = row
        for _ in range(_MAX_REPLACEMENTS):
            if isinstance(image, bytes):
                with contextlib.suppress(BadSampleError):
                    return used, self.spec.transform(image, label, draws)
            used = (used + _REPLACEMENT_STRIDE) % len(self.split)
            image = self.split.try_read_images([used])[0]
            label = self.read_labels([used])[0]
        raise UserError(f"{self.spec.data.uri}: {_MAX_REPLACEMENTS} unreadable images in a row; run shards/verify.py")


def stream(
    spec: StreamSpec,
    *,
    rank: int,
    world: int,
    start_step: int,
    num_steps: int,
    num_loaders: int,
    num_threads: int,
    loader_cpus: float = 1,
) -> Iterator[Batch]:
    """Yield rank `rank`'s slice of the global batches `start_step` .. `num_steps` - 1, in order.

    Args:
        spec: what to stream.
        rank: this worker.
        world: number of workers; the slices of all of them joined are the global batch.
        start_step: the resume cursor.
        num_steps: steps of the whole run.
        num_loaders: actors that read and decode for this rank.
        num_threads: decoding threads in each.
        loader_cpus: logical CPUs that each takes of the cluster's.
    """
    if start_step >= num_steps:
        return
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, Rest]
    split, plan = spec.open_split(), spec.open_plan()
    size = len(plan.slice(start_step, rank, world)[1])
    left, chunk = num_steps - start_step, chunk_steps(split, size)
    # As `ray.data.range`, but its tasks ask for no CPU: trainers and loaders may have taken all there are.
    numbers = RangeDatasource(n=left, block_format="arrow", column_name="id")
    steps = ray.data.read_datasource(numbers, num_cpus=0, override_num_blocks=-(-left // chunk), concurrency=1)
    batches = steps.map_batches(
        Loader,
        fn_constructor_kwargs={
            "spec": spec,
            "rank": rank,
            "world": world,
            "start_step": start_step,
            "num_threads": num_threads,
        },
        batch_size=None,
        compute=ActorPoolStrategy(size=num_loaders, enable_true_multi_threading=True),
        max_concurrency=_CHUNKS_AT_ONCE,
        num_cpus=loader_cpus,
        scheduling_strategy="DEFAULT",  # on nodes without GPUs where there are some, else beside the trainers
    )
    yield from batches.iter_batches(  # pyright: ignore[reportReturnType]  # "numpy" gives dicts of arrays
        batch_size=size, batch_format="numpy", prefetch_batches=2
    )


def chunk_steps(split: Split, slice_size: int) -> int:
    """Return how many steps a loader is given at a time: some 32 MiB of compressed images, at most 16 steps.

    Args:
        split: what is read.
        slice_size: samples of a step's slice.
    """
    step_bytes = slice_size * float(split.image_bytes.mean())
    return int(np.clip(_CHUNK_BYTES / step_bytes, 1, _MAX_CHUNK_STEPS))


def started(batches: Iterator[Batch]) -> Generator[Batch, None, None]:
    """Return the same batches; the first is fetched from now on, in the background, while the caller does other things.

    A pipeline's start takes seconds, nearly all for imports in its new processes.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="first-batch")
    first = pool.submit(next, batches, None)
    pool.shutdown(wait=False)

    def all_of_them() -> Generator[Batch, None, None]:
        batch = first.result()
        if batch is not None:
            yield batch
            yield from batches

    return all_of_them()


def num_ready() -> int:
    """Return how many batches of this process's stream wait ready."""
    return Rest.num_ready
