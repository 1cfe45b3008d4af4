"""A training stage that goes wrong where it is told to, once."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from luss_ray.config.recipe import Optimisation, Recipe
from luss_ray.data.stream import StreamSpec
from luss_ray.train.task import PretrainTask
from luss_ray.train.trainee import Trainee, World


@dataclass(frozen=True, kw_only=True)
class Sabotaged:
    """Pretraining with a mishap or two."""

    task: PretrainTask
    done: Path
    """Folder that remembers which mishaps there have been."""
    bad_loss_at: int = -1
    """Step whose loss is not a number, on the last rank alone."""
    bad_weights_at: int = -1
    """Step whose update makes the weights infinite, on all ranks."""
    for_ever: bool = False
    """Whether it happens again each time the step comes."""
    broken: bool = False
    """Whether the network can't even be built."""

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def recipe(self) -> Recipe:
        return self.task.recipe

    @property
    def optimisation(self) -> Optimisation:
        return self.task.optimisation

    def stream(self) -> StreamSpec:
        return self.task.stream()

    def build(self, world: World) -> Trainee:
        if self.broken:
            raise ZeroDivisionError("sabotage")
        return _Saboteur(self.task.build(world), self, world)

    def happens(self, what: str, rank: int) -> bool:
        """Return whether a mishap is due for a rank, and remember it."""
        mark = self.done / f"{what}-{rank}"
        if mark.exists() and not self.for_ever:
            return False
        mark.touch()
        return True


class _Saboteur:
    def __init__(self, trainee: Trainee, plan: Sabotaged, world: World) -> None:
        self.trainee, self.plan, self.world = trainee, plan, world
        self.network, self.optimiser = trainee.network, trainee.optimiser

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.trainee.inputs(batch)

    def losses(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        losses = self.trainee.losses(network, batch, step)
        last = self.world.rank == self.world.size - 1
        if step == self.plan.bad_loss_at and last and self.plan.happens("loss", self.world.rank):
            losses["loss"] = losses["loss"] * torch.nan
        return losses

    def before_update(self, step: int) -> None:
        self.trainee.before_update(step)
        if step == self.plan.bad_weights_at and self.plan.happens("weights", self.world.rank):
            next(self.network.parameters()).data.fill_(torch.inf)

    def state(self) -> dict[str, Tensor]:
        return self.trainee.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.trainee.load_state(state)
