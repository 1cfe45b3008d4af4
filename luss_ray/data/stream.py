"""Streams one rank's slice of every global batch through Ray Data: read, decode, crop; uint8 comes out.

The pipeline's rows are step numbers, so its order is the plan's order and resuming is starting at another number.
"""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import ray.data
import torch
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.core.seeds import CROPS, uniforms
from luss_ray.data.plan import Plan
from luss_ray.storage.dataset import ShardedDataset, Split
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.uri import Location

_STEPS_PER_TASK = 8
_SCHEDULING_REST_S = 0.1
_REPLACEMENT_STRIDE = 7919
_MAX_REPLACEMENTS = 100


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
    """Makes one rank's part of a global batch; lives in an actor of Ray Data."""

    def __init__(self, *, spec: StreamSpec, rank: int, world: int, start_step: int, num_threads: int) -> None:
        self.spec, self.rank, self.world, self.start_step = spec, rank, world, start_step
        self.split = spec.open_split()
        self.labels = LabelShards(spec.labels, self.split) if spec.labels else None
        self.plan = spec.open_plan()
        self.pool = ThreadPoolExecutor(num_threads)
        torch.set_num_threads(1)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the slice of each asked-for step, counted from the first of this pipeline."""
        for step in batch["id"]:
            yield self.load(self.start_step + int(step))

    def load(self, step: int) -> dict[str, np.ndarray]:
        """Return this rank's slice of global batch `step`: the transform's arrays and (epoch, row, used_row)."""
        epochs, rows = self.plan.slice(step, self.rank, self.world)
        draws = uniforms(self.spec.seed, CROPS, epochs.tolist(), rows.tolist(), self.spec.transform.num_uniforms)
        images = self.split.try_read_images(rows)
        labels = self.labels.read(rows) if self.labels else [None] * len(rows)
        made = list(self.pool.map(self._sample, rows.tolist(), images, labels, draws))
        arrays = {name: np.stack([sample[name] for _, sample in made]) for name in made[0][1]}
        used = np.array([row for row, _ in made], np.int64)
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
            label = self.labels.read([used])[0] if self.labels else None
        raise UserError(f"{self.spec.data.uri}: {_MAX_REPLACEMENTS} unreadable images in a row; run shards/verify.py")


def stream(
    spec: StreamSpec, *, rank: int, world: int, start_step: int, num_steps: int, num_loaders: int, num_threads: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield rank `rank`'s slice of the global batches `start_step` .. `num_steps` - 1, in order.

    Args:
        spec: what to stream.
        rank: this worker.
        world: number of workers; the slices of all of them joined are the global batch.
        start_step: the resume cursor.
        num_steps: steps of the whole run.
        num_loaders: actors that read and decode for this rank.
        num_threads: decoding threads in each.
    """
    if start_step >= num_steps:
        return
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, _Breathe]
    left = num_steps - start_step
    steps = ray.data.range(left, override_num_blocks=-(-left // _STEPS_PER_TASK), concurrency=1)
    batches = steps.map_batches(
        Loader,
        fn_constructor_kwargs={
            "spec": spec,
            "rank": rank,
            "world": world,
            "start_step": start_step,
            "num_threads": num_threads,
        },
        batch_size=1,
        concurrency=num_loaders,
        num_cpus=1,
    )
    size = len(spec.open_plan().slice(start_step, rank, world)[1])
    yield from batches.iter_batches(  # pyright: ignore[reportReturnType]  # "numpy" gives dicts of arrays
        batch_size=size, batch_format="numpy", prefetch_batches=2
    )


class _Breathe(ExecutionCallback):
    """Lets Ray Data's scheduling loop rest between its steps.

    While the consumer is slower than the loaders every task has output ready, so the loop never waits: it would take
    half a core from the training thread, with which it shares the interpreter's lock.
    """

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        time.sleep(_SCHEDULING_REST_S)
