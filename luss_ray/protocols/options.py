"""What jobs that train ask on their command line beside recipe, data and weights; none of it changes a result."""

from dataclasses import dataclass, replace
from pathlib import Path

from luss_ray.core.errors import UserError
from luss_ray.stages.run import RUN
from luss_ray.storage.uri import Location
from luss_ray.track.tracker import TrackerName
from luss_ray.track.trackers import check_installed
from luss_ray.train import cluster
from luss_ray.train.cluster import Resources
from luss_ray.train.limits import Limits


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Where a run lies, and how much may happen to it."""

    storage: str = "runs"
    """Where runs are kept: a folder or s3://bucket/prefix."""
    name: str | None = None
    """Name of the run; the recipe's name by default. The same name goes on where it stopped."""
    num_workers: tuple[int, int] | None = None
    """Fewest and most training workers; by default one for each GPU, or one."""
    max_bad_samples: int | None = None
    """Unreadable images that are put aside before the run is refused; by default 1 %, at least 10."""
    max_failures: int = 8
    """Restarts of a training stage's workers in a row without a new checkpoint between them."""
    max_rewinds: int = 3
    """Times that a training stage may go back to its newest checkpoint because of a loss that isn't finite."""
    stall_timeout: float = 600.0
    """Seconds without a training step after which the workers leave their stacks and are started again."""
    checkpoint_every_s: float = 60.0
    """Seconds between checkpoints."""
    resize_every_s: float = 60.0
    """Seconds between looks whether the cluster has room for more workers, up to --num-workers' MAX; at least twice
    --checkpoint-every-s, since what was done after a checkpoint is done again."""
    dry_run: bool = False
    """Say what would be done, what of it is done already, and what it leaves; do and write nothing."""
    compile: bool = False
    """Compile the networks that are trained with torch.compile: worth it on GPUs in long runs; the first step of each
    stage takes a minute or more, and numbers may differ in their last digits."""
    track: tuple[TrackerName, ...] = ()
    """Experiment trackers that are shown each training stage's figures, the recipe and the scores, any of:
    `tensorboard` (event files in the run's folder), `mlflow` (MLFLOW_TRACKING_URI and its like; experiment luss_ray
    unless MLFLOW_EXPERIMENT_NAME is set), `wandb` (WANDB_API_KEY, WANDB_MODE and their like; project luss_ray unless
    WANDB_PROJECT is set). The last two need `uv sync --inexact --extra trackers`."""
    log: Path = Path("runs/ray.log")
    """Local file for what Ray has to say."""

    def __post_init__(self) -> None:
        if self.num_workers is not None and not 1 <= self.num_workers[0] <= self.num_workers[1]:
            low, high = self.num_workers
            raise UserError(f"--num-workers {low} {high}: give MIN MAX with 1 <= MIN <= MAX")
        if self.name is not None and {".", ".."} & set(self.name.split("/")):
            raise UserError(f"--name {self.name}: it must not lead out of --storage, give one without . and ..")
        self.limits(0)
        check_installed(self.track)

    def connect(self) -> Resources:
        """Join the cluster, or start Ray here, and return what the run takes of it."""
        return replace(cluster.connect(self.log, self.num_workers), compiled=self.compile)

    def limits(self, num_images: int) -> Limits:
        """Return how much may go wrong with a dataset of so many training images."""
        return Limits(
            max_bad_samples=max(10, num_images // 100) if self.max_bad_samples is None else self.max_bad_samples,
            max_failures=self.max_failures,
            max_rewinds=self.max_rewinds,
            stall_timeout_s=self.stall_timeout,
            checkpoint_every_s=self.checkpoint_every_s,
            resize_every_s=self.resize_every_s,
        )


def check_given(weights: str | None, reuse: str | None = None) -> None:
    """Return when what a user named is there, before anything is packed.

    Args:
        weights: a run's folder or a file; None = none was named.
        reuse: a run's folder, or None.

    Raises:
        UserError: there is nothing.
    """
    if weights is not None and not any(Location.parse(weights).exists(name) for name in ("", RUN)):
        raise UserError(f"no weights at {weights}: give a run's folder (with its {RUN}) or a weights file")
    if reuse is not None and not Location.parse(reuse).exists(RUN):
        raise UserError(f"--reuse {reuse}: there is no run (no {RUN})")
