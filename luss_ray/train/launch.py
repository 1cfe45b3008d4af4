"""Starts a training stage on Ray Train workers and waits for it."""

import os
from collections.abc import Callable
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from luss_ray.core.errors import UserError
from luss_ray.core.progress import StageProgress
from luss_ray.storage.uri import Location
from luss_ray.train.assignment import Assignment
from luss_ray.train.cluster import Resources
from luss_ray.train.ledger import write_order
from luss_ray.train.limits import Limits
from luss_ray.train.monitor import watch
from luss_ray.train.task import Task
from luss_ray.train.worker import train_worker


def train(
    task: Task,
    folder: Location,
    *,
    settings: str,
    resources: Resources,
    limits: Limits,
    track: Callable[[list[dict[str, float]]], None] | None = None,
) -> int:
    """Run `task` to its end, from its newest checkpoint; return the number of images it used.

    Args:
        task: what is trained.
        folder: where weights, figures and checkpoints are left.
        settings: digest of everything that influences the result.
        resources: what the stage takes of the cluster.
        limits: how much may go wrong.
        track: takes rows of figures as they come, at once; after a restart all those before it come again.

    Raises:
        UserError: a worker refused its input, or too much went wrong.
    """
    plan = task.stream().open_plan()
    write_order(folder, task.stream())
    batch_size = task.optimisation.batch_size
    with (
        StageProgress(task.name, plan.num_steps, "steps", images_per_unit=batch_size) as progress,
        watch(progress, limits.max_failures, track) as monitor,
    ):
        assignment = Assignment(
            task=task,
            folder=folder,
            settings=settings,
            num_loaders=resources.num_loaders,
            loader_cpus=resources.loader_cpus,
            num_threads=resources.num_threads,
            compiled=resources.compiled,
            preemptible=resources.preemptible,
            limits=limits,
            monitor=monitor,
            tracked=track is not None,
        )
        while not _finishes(_trainer(assignment, resources), monitor):
            pass
    (folder / "ray").delete_prefix("")
    return plan.num_steps * batch_size


def _trainer(assignment: Assignment, resources: Resources) -> TorchTrainer:
    low, high = resources.num_workers
    if low < high:  # for a moment after a node is lost Ray still counts on it, and would wait a minute for it
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")
    return TorchTrainer(
        lambda: train_worker(assignment),
        scaling_config=ScalingConfig(
            num_workers=high if low == high else (low, high),
            use_gpu=resources.use_gpu,
            resources_per_worker={"CPU": 1} | ({"GPU": 1} if resources.use_gpu else {}),
            # Ray resizes without notice: later than the group's first checkpoint, lest it throw all away that was done.
            elastic_resize_monitor_interval_s=max(
                assignment.limits.resize_every_s, 2 * assignment.limits.checkpoint_every_s
            ),
        ),
        run_config=RunConfig(
            name=assignment.settings[:12],
            storage_path=(assignment.folder / "ray").uri,
            # The monitor counts: Ray would give up after so many failures in all, however far a run came between.
            failure_config=FailureConfig(max_failures=-1),
        ),
    )


def _finishes(trainer: TorchTrainer, monitor: Any) -> bool:
    """Train; return False where it must be tried again.

    Ray gives up by itself where a worker dies while the group is being joined, which lost nodes do bring about.

    Raises:
        UserError: a worker refused its input, or there were too many failures in a row.
    """
    try:
        trainer.fit()
        return True
    except TrainingFailedError as error:
        now: Any = ray.get(monitor.situation.remote())
        ray.get(monitor.fail.remote(_last_line(error)))
        refusal = now.refusal or ray.get(monitor.begin.remote())
        if refusal:
            raise UserError(refusal) from error
        return False


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
