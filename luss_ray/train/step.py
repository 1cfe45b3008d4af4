"""One step up to the gradients: what the loop does with a batch, without Ray, so that benchmarks do the very same."""

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from luss_ray.core.errors import UserError
from luss_ray.train.trainee import Trainee, World

T = TypeVar("T")
_ON_HOST = ("epoch", "row", "used_row", "geometry")
"""What says of a sample where it comes from; sizes and grids are made of it, and nothing should wait for a GPU then."""


GRADIENT_NORM = "gradient_norm"
_FLOAT16_SINCE = (7, 0)
"""Compute capability from which float16 is faster than float32: tensor cores."""


class Precision:
    """The numbers that a training computes in, and the scale of its loss where they are float16.

    Small gradients vanish in float16 unless the loss is multiplied by a large number. The largest that fits is found by
    trying: an update whose gradient overflows is left out and the scale is halved, after 2,000 without it is doubled.

    Args:
        device: that computes.
        dtype: of products and convolutions; None = float32, as all else.

    Source: Micikevicius et al., "Mixed Precision Training", arXiv 1710.03740.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self.device, self.dtype = device, dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    @classmethod
    def best(cls, device: torch.device, *, mixed: bool) -> "Precision":
        """Return the fastest for a device, or float32 unless `mixed`."""
        return cls(device, half_precision(device) if mixed else None)

    def autocast(self) -> torch.autocast:
        """Return the context of a forward pass."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def overflowed(self, figures: Mapping[str, float]) -> bool:
        """Whether a step's gradient overflowed because its loss was scaled too much, which `update` will see to.

        Args:
            figures: of the step, over all ranks.
        """
        if not self.scaler.is_enabled() or math.isfinite(figures[GRADIENT_NORM]):
            return False
        return all(math.isfinite(figures[name]) for name in figures.keys() - {GRADIENT_NORM}) and self.scale > 1

    @property
    def scale(self) -> float:
        """What the loss is multiplied by; 1 unless in float16."""
        return self.scaler.get_scale()

    def update(self, optimiser: torch.optim.Optimizer) -> None:
        """Change the weights, unless the gradient overflowed; with it the scale. The same on all ranks."""
        self.scaler.step(optimiser)
        self.scaler.update()

    def state(self) -> dict[str, Tensor]:
        """Return the scale and how long it has held; nothing unless in float16."""
        state = self.scaler.state_dict()
        return {"scale": torch.tensor(state["scale"]), "steps": torch.tensor(state["_growth_tracker"])} if state else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave, possibly on a device that computes in other numbers."""
        if state and self.scaler.is_enabled():
            found = {"scale": float(state["scale"]), "_growth_tracker": int(state["steps"])}
            self.scaler.load_state_dict(self.scaler.state_dict() | found)


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Return a stream's arrays as tensors, pixels and labels on the device, the rest on the host."""
    tensors = {name: torch.as_tensor(array) for name, array in batch.items()}
    if device.type == "cpu":
        return tensors
    return {
        name: tensor if name in _ON_HOST else tensor.pin_memory().to(device, non_blocking=True)
        for name, tensor in tensors.items()
    }


def prepared(
    batches: Iterator[dict[str, Any]], trainee: Trainee, device: torch.device
) -> Generator[tuple[dict[str, Any], dict[str, Tensor]], None, None]:
    """Yield a stream's batches, each with the trainee's inputs made of it.

    On a GPU they are made a step ahead, by a thread and on a stream of their own: pinning, copying and colouring go on
    beside the step before. Close it before the stream.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch, trainee.inputs(to_device(batch, device))
        return
    beside = torch.cuda.Stream(device)

    def prepare() -> tuple[dict[str, Any], dict[str, Tensor], torch.cuda.Event] | None:
        batch = next(batches, None)
        if batch is None:
            return None
        torch.cuda.set_device(beside.device)  # of this thread, which would else begin to use the first GPU
        made = torch.cuda.Event()
        with torch.cuda.stream(beside):
            inputs = trainee.inputs(to_device(batch, device))
            made.record(beside)
        return batch, inputs, made

    with contextlib.closing(ahead(prepare)) as coming:
        for batch, inputs, made in coming:
            computing = torch.cuda.current_stream(device)
            computing.wait_event(made)
            for tensor in inputs.values():
                if tensor.is_cuda:
                    tensor.record_stream(computing)  # its memory is free again when the step is done with it
            yield batch, inputs


def ahead(make: Callable[[], T | None]) -> Generator[T, None, None]:
    """Yield what `make` returns, until that is None; the next is being made in a thread while one is in use.

    Closed early, it waits for what is being made.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        coming = pool.submit(make)
        while (made := coming.result()) is not None:
            coming = pool.submit(make)
            yield made


def backward(
    trainee: Trainee,
    network: nn.Module,
    batch: dict[str, Tensor],
    *,
    step: int,
    share: float,
    world: World,
    precision: Precision,
) -> dict[str, Tensor]:
    """Leave the gradients of a batch in the parameters; return the figures of this rank, weighted by its share.

    They are those of the trainee, and `gradient_norm`, the length of the whole batch's gradient over all parameters.

    The losses are means over this rank's samples and gradients are averaged over ranks, so the loss is weighted by the
    rank's share of the global batch: uneven slices give exactly the gradient of the whole batch.

    Args:
        trainee: what learns.
        network: its network, possibly wrapped for data parallelism.
        batch: the trainee's inputs.
        step: the global step.
        share: of the global batch that this rank has, in (0, 1].
        world: this rank.
        precision: to compute in where that is safe.
    """
    with precision.autocast():
        losses = trainee.losses(network, batch, step)
    precision.scaler.scale(losses["loss"] * share * world.size).backward()
    precision.scaler.unscale_(trainee.optimiser)
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    figures = losses | {GRADIENT_NORM: torch.nn.utils.get_total_norm(gradients)}
    return {name: value.detach() * share for name, value in figures.items()}


def tune(device: torch.device) -> None:
    """Have cuDNN try its algorithms at the first step: the network sees the same sizes in all of them."""
    torch.backends.cudnn.benchmark = device.type == "cuda"


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Have the network compiled when it is first called; names and values of its weights stay.

    Raises:
        UserError: the device is a CPU, and there is no compiler for it here.
    """
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError("--compile needs a C++ compiler on a CPU: install g++, or leave it out")
    network.compile(dynamic=False)


def half_precision(device: torch.device) -> torch.dtype | None:
    """Return the 16-bit numbers that a device computes in faster than in float32, or None.

    bfloat16 where it is native: where it is emulated float32 is faster. Else float16, on GPUs with tensor cores for it.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        return torch.float16 if torch.cuda.get_device_capability(device) >= _FLOAT16_SINCE else None
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else None
