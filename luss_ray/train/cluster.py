"""Joins the Ray cluster, or starts Ray on this machine, and decides what a run takes of it."""

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import ray
from ray._private.state import state

from luss_ray.core.errors import UserError

_MAX_LOADERS = 14
_OBJECT_STORE_BYTES = 1 << 30
"""Of a machine without GPUs. Loaders wait for each other where it holds less than they fill at once, which a CPU's
training is too slow to notice."""
_LOGICAL_CPUS = 8
ON_CPUS = "LUSS_RAY_ON_CPUS"
"""Set by infra/on_gpus.py where no GPU was asked for."""
_ASK_FIRST = (
    "a run decides by what it finds: submit it as `python infra/on_gpus.py NUM_GPUS -- COMMAND`, "
    "or `python infra/on_gpus.py 0 --cpus NUM -- COMMAND` to do without GPUs"
)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the cluster gives to a run; it changes speed, never results."""

    num_workers: tuple[int, int]
    """Fewest and most training workers."""
    use_gpu: bool
    """Whether every worker has a GPU of its own."""
    num_loaders: int
    """Actors that read and decode beside each training worker."""
    loader_cpus: float
    """Logical CPUs that each of them takes of the cluster's."""
    num_threads: int
    """Threads of the mathematics on a CPU worker."""
    preemptible: bool
    """Whether nodes may be announced to be taken away: any cluster but one that was started here."""
    num_actors: int
    """Actors at most in the stages that run a network over a whole split, or cluster."""
    compiled: bool = False
    """Whether training workers compile their network with torch.compile."""


def connect(log_file: Path, num_workers: tuple[int, int] | None = None) -> Resources:
    """Join the cluster, or start Ray here, and return what a run takes of it; see `join` and `resources`."""
    join(log_file)
    return resources(num_workers)


def join(log_file: Path) -> None:
    """Connect to the cluster named by RAY_ADDRESS, or start Ray here; its chatter goes to `log_file`.

    A cluster of our own has more logical CPUs than a small machine has cores: training workers, loaders and Ray's own
    coordinators mostly wait for each other, and would otherwise starve.
    """
    _send_chatter_to(log_file)
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
        _keep_here()
        return
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # this machine won't be taken from under itself
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # a stage's end is noticed so much later at most
    import torch  # noqa: PLC0415  (it takes seconds)

    ray.init(
        address="local",  # and not some cluster that happens to run on this machine
        num_cpus=max(_LOGICAL_CPUS, os.cpu_count() or 1),
        object_store_memory=None if torch.cuda.is_available() else _OBJECT_STORE_BYTES,  # None: as Ray has it
        include_dashboard=False,
        **quiet,
    )


def _keep_here() -> None:
    """Start beside the driver, on the head, those actors of Ray Data that outlive all jobs.

    Else they live where they are needed first, and the autoscaler never lets that node go (ray-project/ray#56576).
    """
    # Imported here since it takes seconds.
    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator  # noqa: PLC0415
    from ray.data._internal.execution.node_trackers import get_or_create_actor_location_tracker  # noqa: PLC0415
    from ray.data._internal.stats import get_or_create_stats_actor  # noqa: PLC0415
    from ray.data._internal.usage.actor import get_or_create_usage_collection_actor  # noqa: PLC0415
    from ray.data._internal.usage.collector import usage_collection_disabled  # noqa: PLC0415

    get_or_create_autoscaling_coordinator()
    get_or_create_actor_location_tracker()
    get_or_create_stats_actor()
    if not usage_collection_disabled():
        get_or_create_usage_collection_actor()


def resources(num_workers: tuple[int, int] | None) -> Resources:
    """Return what a run takes: a worker for each GPU, or one on a cluster without GPUs, unless asked for otherwise.

    Loaders take the CPUs that workers leave. Where there is none left for each they share the workers', or a run would
    wait for ever.

    Args:
        num_workers: fewest and most training workers, at least 1; None = by what the cluster has now.

    Raises:
        UserError: the cluster is at rest, so that whether there will be GPUs isn't known; or there are none yet.
    """
    cluster = ray.cluster_resources()
    num_gpus = int(cluster.get("GPU", 0))
    if not num_gpus and not cluster.get("CPU", 0):
        raise UserError(f"the cluster has neither GPUs nor CPUs now, and {_ASK_FIRST}")
    if not num_gpus and ON_CPUS not in os.environ and _could_have_gpus():
        raise UserError(f"the cluster can have GPUs but has none now, and {_ASK_FIRST}")
    low, high = num_workers or (max(1, num_gpus), max(1, num_gpus))
    num_cores = os.cpu_count() or 1 if _is_ours() else int(cluster.get("CPU", 1))
    return Resources(
        num_workers=(low, high),
        use_gpu=num_gpus > 0,
        num_loaders=max(1, min(_MAX_LOADERS, num_cores // high - 1)),
        loader_cpus=0 if 0 < cluster.get("CPU", 0) < 2 * high else 1,
        num_threads=max(1, num_cores // high - 1) if _is_ours() else 1,
        preemptible=not _is_ours(),
        num_actors=num_gpus or max(1, num_cores // 2),
    )


def _could_have_gpus() -> bool:
    """Whether an autoscaling cluster has nodes with GPUs in its configuration."""
    possible = state.get_max_resources_from_cluster_config() or {}
    return possible.get("GPU", 0) > 0


def _is_ours() -> bool:
    return not os.environ.get("RAY_ADDRESS")


def _send_chatter_to(log_file: Path) -> None:
    """Let a file have what Ray says (its loggers, what it prints, what its native code writes to file descriptor 2) and
    what our own loggers say.

    What people should see is printed through `core.progress.CONSOLE`, which keeps the standard output it was made
    with; tracebacks still reach the standard error.
    """
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log = log_file.open("a", buffering=1)
    except OSError as error:
        raise UserError(f"can't write {log_file} ({error.strerror}): name another --log") from None
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    for name in ("ray", "ray.data", "ray.train", "luss_ray"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    sys.stdout = log
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(log.fileno(), 2)
