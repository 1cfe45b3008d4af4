"""Starts a training stage on Ray Train workers and waits for it."""

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from luss_ray.core.errors import UserError
from luss_ray.core.progress import StageProgress
from luss_ray.storage.uri import Location
from luss_ray.train.cluster import Resources
from luss_ray.train.ledger import write_order
from luss_ray.train.loop import Assignment, train_worker
from luss_ray.train.monitor import watch
from luss_ray.train.task import Task


def train(
    task: Task,
    folder: Location,
    *,
    settings: str,
    resources: Resources,
    checkpoint_every_s: float,
    max_bad_samples: int,
    max_failures: int,
) -> int:
    """Run `task` to its end, from its newest checkpoint; return the number of images it used.

    Raises:
        UserError: a worker refused its input, or the group failed more than `max_failures` times.
    """
    plan = task.stream().open_plan()
    write_order(folder, task.stream())
    batch_size = task.optimisation.batch_size
    with (
        StageProgress(task.name, plan.num_steps, "steps", images_per_unit=batch_size) as progress,
        watch(progress) as monitor,
    ):
        assignment = Assignment(
            task=task,
            folder=folder,
            settings=settings,
            num_loaders=resources.num_loaders,
            loader_cpus=resources.loader_cpus,
            num_threads=resources.num_threads,
            checkpoint_every_s=checkpoint_every_s,
            max_bad_samples=max_bad_samples,
            monitor=monitor,
        )
        low, high = resources.num_workers
        trainer = TorchTrainer(
            lambda: train_worker(assignment),
            scaling_config=ScalingConfig(
                num_workers=high if low == high else (low, high),
                use_gpu=resources.use_gpu,
                resources_per_worker={"CPU": 1} | ({"GPU": 1} if resources.use_gpu else {}),
            ),
            run_config=RunConfig(
                name=settings[:12],
                storage_path=(folder / "ray").uri,
                failure_config=FailureConfig(max_failures=max_failures),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            refusal = ray.get(monitor.snapshot.remote())[2]
            reason = refusal or f"{task.name}: gave up after {max_failures} restarts: {_last_line(error)}"
            raise UserError(reason) from error
    (folder / "ray").delete_prefix("")
    return plan.num_steps * batch_size


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
