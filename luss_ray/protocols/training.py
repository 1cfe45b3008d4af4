"""A training stage of a run: started or skipped, and shown to the trackers."""

import functools
from typing import Any

from luss_ray.core.errors import UserError
from luss_ray.stages.run import Finished, Run
from luss_ray.storage.uri import Location
from luss_ray.train.figures import read_rows
from luss_ray.train.launch import train
from luss_ray.train.ledger import CHECKPOINTS
from luss_ray.train.task import Task


def train_stage(run: Run, task: Task, inputs: dict[str, Any], *, smallest_batch: int) -> Finished:
    """Return the stage that trains `task`, in the folder of its name.

    Args:
        run: of which it is a stage.
        task: what is trained.
        inputs: what its result follows from, besides the precision.
        smallest_batch: of all training stages of the run, so that one that is too small is refused at the first.

    Raises:
        UserError: its batches are too small for the workers, or training was given up.
    """

    def work(folder: Location, settings: str) -> dict[str, Any]:
        num_workers = run.resources.num_workers[1]
        if smallest_batch < 2 * num_workers:
            raise UserError(
                f"a batch of {smallest_batch} is too small for {num_workers} workers; give fewer --num-workers"
            )
        track = functools.partial(run.trackers.rows, task.name) if run.trackers else None
        images = train(task, folder, settings=settings, resources=run.resources, limits=run.limits, track=track)
        return {"images": images}

    finished = run.stage(task.name, {**inputs, "mixed_precision": run.recipe.mixed_precision}, work)
    if run.on_stage is None:  # not sooner: whatever ends before the stage counts as done goes on from them
        (finished.folder / CHECKPOINTS).delete_prefix("")
    if run.trackers:  # of a stage that was finished or copied they have seen nothing; what they have is dropped
        run.trackers.rows(task.name, read_rows(finished.folder))
    return finished
