"""What the step loop drives: a network that learns, and its place among the workers. Nothing here needs Ray."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class World:
    """This worker's place among the workers."""

    rank: int
    size: int
    device: torch.device

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all ranks."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, value: T) -> T:
        """Return what rank 0 gave, on every rank; any small picklable value."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, 0, device=self.device)
        return box[0]


class Trainee(Protocol):
    """A network that learns: built in every worker, driven by the loop."""

    network: nn.Module
    """All weights, trained and frozen; its state dict is what the stage leaves behind."""
    optimiser: torch.optim.Optimizer

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch as `losses` takes it, its crops coloured: a function of the batch and of settings alone.

        On a GPU this is called a step ahead, in a thread and on a stream of its own.

        Args:
            batch: the stream's arrays as tensors; pixels and labels on the device.
        """
        ...

    def losses(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return scalars for this rank's samples, means over them: `loss` is what is minimised, the rest is watched.

        Args:
            network: `self.network`, possibly wrapped for data parallelism; called exactly once.
            batch: of `inputs`.
            step: the global step.
        """
        ...

    def before_update(self, step: int) -> None:
        """Change gradients between backward pass and update, e.g. drop those of frozen prototypes."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what must survive a restart besides weights and optimiser, in a world-size-free form."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        ...
