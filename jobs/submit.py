#!/usr/bin/env -S uv run
"""Writes what the benchmark's server takes: `python jobs/submit.py RUN --split test --out submission.zip`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from luss_ray.core.command import parsed, run
from luss_ray.core.progress import CONSOLE
from luss_ray.protocols import plan
from luss_ray.protocols.rules import Protocol, check_split
from luss_ray.protocols.submission import plan_submission, submit
from luss_ray.stages.run import Run, read_origin
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location
from luss_ray.train import cluster
from luss_ray.train.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Options:
    """Predict a split with a finished run, write the zip for the benchmark's server, and check it."""

    run: tyro.conf.Positional[str]
    """Folder of the run, here or in s3://."""
    out: Path = Path("submission.zip")
    """The zip."""
    split: str = "test"
    """The split that is submitted."""
    data: str | None = None
    """The run's dataset, where it has moved."""
    method_name: str = "PASS"
    """What the method is called."""
    description: str = "Large-scale unsupervised semantic segmentation, reimplemented on Ray"
    """A few sentences on it."""
    max_bad_samples: int = 0
    """Unreadable images, which are predicted as other."""
    dry_run: bool = False
    """Say what would be done, and whether it could be; do and write nothing."""
    log: Path = Path("runs/ray.log")
    """File for what Ray has to say."""


def main(options: Options) -> None:
    """Write the zip and print what it says of itself."""
    folder = Location.parse(options.run)
    origin = read_origin(folder)
    data = ShardedDataset.open(Location.parse(options.data or origin.data_uri))
    data.split(options.split)
    check_split(Protocol.UNSUPERVISED, origin.recipe.pretrain.split, data)
    whole = Run(
        folder=folder,
        recipe=origin.recipe,
        data=data,
        connect=lambda: cluster.connect(options.log),
        limits=Limits(max_bad_samples=options.max_bad_samples),
    )
    if options.dry_run:
        plan.show(whole, plan_submission(whole, options.split))
        CONSOLE.print(f"{options.out} would be written, and checked")
        return
    with whole.claimed() as claimed:
        method = submit(claimed, options.split, options.out, name=options.method_name, description=options.description)
    CONSOLE.print(method.text(), end="")
    CONSOLE.print(f"{options.out}  checked: every image of {options.split} is there")


if __name__ == "__main__":
    run(lambda: main(parsed(lambda: tyro.cli(Options))))
