"""One worker of a training stage's group, from joining it to its end."""

import functools
import os
import sys
import time
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from luss_ray.core.errors import UserError
from luss_ray.storage.store import be_patient
from luss_ray.train.assignment import Assignment
from luss_ray.train.ledger import STALLS, check_seen
from luss_ray.train.loop import Trainer
from luss_ray.train.refusals import user_errors
from luss_ray.train.stall import StallGuard
from luss_ray.train.step import tune
from luss_ray.train.trainee import World


def train_worker(assignment: Assignment) -> None:
    """Run a training stage in one worker of the group, from the newest checkpoint to its end."""
    be_patient()
    monitor = assignment.monitor
    now: Any = ray.get(monitor.situation.remote())
    if now.refusal:
        return
    try:
        check_seen(assignment.folder)
        world = _join_world(assignment.num_threads)
        refusal = ray.get(monitor.begin.remote(world.size)) if world.rank == 0 else None
        if refusal:
            raise UserError(refusal)
        leave_stacks = functools.partial(_leave_stacks, assignment, world)
        with StallGuard(assignment.limits.stall_timeout_s, leave_stacks) as guard, user_errors():
            while not Trainer(assignment, world, guard).run():
                pass  # it goes back to the newest checkpoint
    except UserError as error:
        ray.get(monitor.refuse.remote(str(error)))
        raise
    except Exception as error:
        ray.get(monitor.fail.remote(f"{type(error).__name__}: {error}"))
        raise


def _join_world(num_threads: int) -> World:
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        os.environ["OMP_NUM_THREADS"] = str(num_threads)
        torch.set_num_threads(num_threads)
    tune(device)
    return World(rank=context.get_world_rank(), size=context.get_world_size(), device=device)


def _leave_stacks(assignment: Assignment, world: World, stacks: str) -> None:
    """Tell that a worker hangs, and keep where."""
    stalls = assignment.folder / STALLS
    seconds = assignment.limits.stall_timeout_s
    sys.stderr.write(stacks)
    if world.rank == 0:
        line = f"no step for {seconds:g} s; stacks of the workers in {stalls.uri}; they are started again"
        assignment.monitor.note.remote(line)
        assignment.monitor.fail.remote(line)
    stalls.write(f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-rank-{world.rank}.txt", stacks.encode())
