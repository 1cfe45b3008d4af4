"""What the workers of a training stage are told."""

from dataclasses import dataclass
from typing import Any

from luss_ray.storage.uri import Location
from luss_ray.train.limits import Limits
from luss_ray.train.task import Task


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker is told: sent to all of them, the same for all."""

    task: Task
    folder: Location
    """Where the stage leaves weights, figures and checkpoints."""
    settings: str
    """Digest of everything that influences the result."""
    num_loaders: int
    """Ray Data actors that decode for one worker."""
    loader_cpus: float
    """Logical CPUs that each of them takes."""
    num_threads: int
    """Threads of the mathematics on a CPU worker."""
    compiled: bool
    """Whether it compiles its network."""
    preemptible: bool
    """Whether to ask Ray if nodes are about to be taken away."""
    limits: Limits
    """How much may go wrong."""
    monitor: Any
    """Handle of the Monitor actor."""
    tracked: bool
    """Whether rank 0 sends it the rows of figures."""
