"""PASS, whole: from images to segmentations, scores and a report. `python jobs/pass.py [RECIPE] [options]`."""

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from luss_ray.config.command_line import parse
from luss_ray.core.command import run
from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE
from luss_ray.protocols.datasets import open_dataset
from luss_ray.protocols.rules import Protocol
from luss_ray.stages.order import Stage
from luss_ray.stages.run import Run
from luss_ray.storage.uri import Location
from luss_ray.track.tracker import TrackerName
from luss_ray.track.trackers import check_installed
from luss_ray.train import cluster
from luss_ray.train.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run works on and where, none of which changes its result."""

    data: str | None = None
    """Sharded dataset (shards/build.py): a folder or s3://bucket/prefix. A local folder of images is packed first. The
    demo recipes bring their own."""
    storage: str = "runs"
    """Where runs are kept: a folder or s3://bucket/prefix."""
    name: str | None = None
    """Name of the run; the recipe's name by default. The same name goes on where it stopped."""
    reuse: str | None = None
    """Another run: what it has finished is copied, as far as it follows from the same data and settings."""
    num_workers: tuple[int, int] | None = None
    """Fewest and most training workers; by default one for each GPU, or one."""
    protocol: Protocol = Protocol.UNSUPERVISED
    """What may be trained on; `free` lets a small subset pretrain on all of ImageNet."""
    until: Stage | None = None
    """Stop after this stage."""
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
    """Seconds between looks whether the cluster has room for more workers, up to --num-workers' MAX."""
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
        self.limits(0)
        check_installed(self.track)

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


def main() -> None:
    """Run PASS and print where its results are."""
    options, recipe = parse(Options, sys.argv[1:], program="pass.py", about=__doc__ or "")
    storage = Location.parse(options.storage)
    data = open_dataset(options.data, recipe, storage, options.max_bad_samples)
    # Imported once the command line is known to be right: it takes seconds.
    from luss_ray.protocols.unsupervised import run_pass
    from luss_ray.report.collect import REPORT, RESULT

    whole = Run(
        folder=storage / (options.name or recipe.recipe_name),
        recipe=recipe,
        data=data,
        connect=lambda: cluster.connect(options.log, options.num_workers),
        limits=options.limits(len(data.split("train"))),
        track=options.track,
        reuse=None if options.reuse is None else Location.parse(options.reuse),
    )
    result = run_pass(whole, options.until, options.protocol)
    CONSOLE.print(f"\nresult  {whole.folder / RESULT}\nreport  {whole.folder / REPORT}")
    if result["threshold"]:
        CONSOLE.print(_threshold(result))
    CONSOLE.print(_table(result))


def _threshold(result: dict) -> str:
    """Return which attention threshold made the labels and what chose it."""
    threshold, labels = result["threshold"], result["pseudo_labels"]
    by = "the validation masks" if threshold["used"] == "validation" else "the attention alone, label-free"
    kept = f"; {labels['coverage']:.1f} % of the training pixels keep a label" if labels else ""
    return f"attention threshold {threshold['chosen']:.2f}, chosen by {by}{kept}"


def _table(result: dict) -> Table:
    """Return the scores beside the baselines; or, without labels, the sizes of what was found."""
    table = Table(box=None, pad_edge=False)
    metrics = result["metrics"]
    rows = {"fine-tuned": metrics.get("finetuned"), "pseudo-labels": metrics.get("pseudo_labels")}
    rows |= {name.replace("_", " "): scores for name, scores in metrics.get("baselines", {}).items()}
    if not any(rows.values()):
        table.add_row("no masks to score with: the report shows the clusters")
        return table
    for heading in ("", "mIoU", "acc", "F"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, scores in rows.items():
        if scores:
            table.add_row(name, *(f"{scores[key]:.1f}" for key in ("miou", "acc", "f")))
    return table


if __name__ == "__main__":
    run(main)
