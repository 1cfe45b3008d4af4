"""Pretraining in one plain loop, without Ray and without workers: what runs of any number of workers should come to."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fixtures_run import TINY, arguments

from luss_ray.config.command_line import parse
from luss_ray.data.stream import Loader
from luss_ray.optim.schedule import cosine_rate
from luss_ray.storage.uri import Location
from luss_ray.train.task import PretrainTask
from luss_ray.train.trainee import World


@dataclass(frozen=True)
class NoOptions:
    """Nothing but the recipe."""


def reference_losses(shards: Path, *options: str, nudge: float = 0.0, draw: int = 0) -> dict[int, float]:
    """Return the loss of each step, counted from 1.

    Args:
        shards: the data.
        options: of the job, besides the tiny ones.
        nudge: the first weights are changed by so much of themselves, up or down, as another rounding would.
        draw: which ups and downs.
    """
    _, recipe = parse(NoOptions, ["demo", *arguments(*TINY[1:], *options)], program="test", about="")
    task = PretrainTask(recipe=recipe, data=Location.parse(shards))
    schedule, num_steps = task.optimisation, task.stream().open_plan().num_steps
    trainee = task.build(World(rank=0, size=1, device=torch.device("cpu")))
    signs = torch.Generator().manual_seed(draw)
    for weights in trainee.network.parameters():
        weights.data *= 1 + nudge * (2.0 * torch.randint(2, weights.shape, generator=signs) - 1)
    losses = {}
    batches = Loader(spec=task.stream(), rank=0, world=1, start_step=0, num_threads=1).load(np.arange(num_steps))
    for step, batch in enumerate(batches):
        for group in trainee.optimiser.param_groups:
            group["lr"] = cosine_rate(
                step,
                num_steps=num_steps,
                base=schedule.lr,
                final=schedule.final_lr,
                num_warmup_steps=schedule.warmup_steps,
            )
        trainee.optimiser.zero_grad(set_to_none=True)
        inputs = trainee.inputs({k: torch.as_tensor(v) for k, v in batch.items()})
        loss = trainee.losses(trainee.network, inputs, step)["loss"]
        loss.backward()
        trainee.before_update(step)
        trainee.optimiser.step()
        losses[step + 1] = loss.item()
    return losses
