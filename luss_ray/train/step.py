"""One step up to the gradients: what the loop does with a batch, without Ray, so that benchmarks do the very same."""

import os
import shutil
from typing import Any

import torch
from torch import Tensor, nn

from luss_ray.core.errors import UserError
from luss_ray.train.trainee import Trainee, World

_ON_HOST = ("epoch", "row", "used_row", "geometry")
"""What says of a sample where it comes from; sizes and grids are made of it, and nothing should wait for a GPU then."""


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Return a stream's arrays as tensors, pixels and labels on the device, the rest on the host."""
    tensors = {name: torch.as_tensor(array) for name, array in batch.items()}
    if device.type == "cpu":
        return tensors
    return {
        name: tensor if name in _ON_HOST else tensor.pin_memory().to(device, non_blocking=True)
        for name, tensor in tensors.items()
    }


def backward(
    trainee: Trainee,
    network: nn.Module,
    batch: dict[str, Tensor],
    *,
    step: int,
    share: float,
    world: World,
    mixed: bool,
) -> dict[str, Tensor]:
    """Leave the gradients of a batch in the parameters; return the figures of this rank, weighted by its share.

    They are those of the trainee, and `gradient_norm`, the length of the whole batch's gradient over all parameters.

    The losses are means over this rank's samples and gradients are averaged over ranks, so the loss is weighted by the
    rank's share of the global batch: uneven slices give exactly the gradient of the whole batch.

    Args:
        trainee: what learns.
        network: its network, possibly wrapped for data parallelism.
        batch: of `to_device`.
        step: the global step.
        share: of the global batch that this rank has, in (0, 1].
        world: this rank.
        mixed: whether to compute in bfloat16 where that is safe.
    """
    with torch.autocast(world.device.type, torch.bfloat16, enabled=mixed):
        losses = trainee.losses(network, batch, step)
    (losses["loss"] * share * world.size).backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    figures = losses | {"gradient_norm": torch.nn.utils.get_total_norm(gradients)}
    return {name: value.detach() * share for name, value in figures.items()}


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Have the network compiled when it is first called; names and values of its weights stay.

    Raises:
        UserError: the device is a CPU, and there is no compiler for it here.
    """
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError("--compile needs a C++ compiler on a CPU: install g++, or leave it out")
    network.compile(dynamic=False)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; where it is emulated float32 is faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
