"""Exchange between the processes of a training run; without a process group everything is local.

Gradients of losses: each process has the loss of its own samples. `all_reduce_sum` therefore sums the incoming
gradients too, i.e. it differentiates the sum of all processes' losses.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce_sum(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Return the sum over all processes; differentiable, and the input stays as it is.

    Args:
        tensor: of the same shape on every process.
    """
    return tensor if world_size() == 1 else _AllReduceSum.apply(tensor)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def all_gather_rows(
    tensor: Shaped[Tensor, "*rows"], sizes: Sequence[int], *, dim: int = 0
) -> Shaped[Tensor, "*global_rows"]:
    """Return all processes' rows in rank order, without gradient: the global batch if it was split in that order.

    Args:
        tensor: this process's rows.
        sizes: rows of each process; they may differ, and be 0.
        dim: dimension of the rows, e.g. 1 for embeddings (crops, samples, D).
    """
    rows = tensor.detach().movedim(dim, 0)
    if world_size() == 1:
        return tensor.detach()
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).movedim(0, dim)


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        return _AllReduceSum.forward(ctx, gradients[0])
