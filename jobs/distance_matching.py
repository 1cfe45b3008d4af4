#!/usr/bin/env -S uv run
"""Scores a pretrained backbone by its nearest annotated regions: `python jobs/distance_matching.py [RECIPE] …`."""

import sys
from dataclasses import dataclass
from pathlib import Path

from luss_ray.config.command_line import parse
from luss_ray.core.command import run
from luss_ray.core.progress import CONSOLE
from luss_ray.protocols import plan
from luss_ray.protocols.datasets import open_dataset
from luss_ray.protocols.distance_matching import plan_distance_matching, run_distance_matching
from luss_ray.protocols.rules import Protocol
from luss_ray.protocols.weights import find_weights
from luss_ray.report.collect import RESULT
from luss_ray.stages.run import Run
from luss_ray.storage.uri import Location
from luss_ray.train import cluster
from luss_ray.train.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is scored and where it goes. The recipe says which backbone the weights are of."""

    weights: str
    """A run of jobs/pass.py (its pretrained backbone), or a file of weights: .safetensors or .pth."""
    data: str | None = None
    """Sharded dataset with train-semi masks: a folder or s3://bucket/prefix. The demo recipes bring their own."""
    storage: str = "runs"
    """Where runs are kept: a folder or s3://bucket/prefix."""
    name: str | None = None
    """Name of the run; the recipe's name and `-distance-matching` by default."""
    split: str = "validation"
    """Split that is predicted; scored where it has masks."""
    protocol: Protocol = Protocol.DISTANCE_MATCHING
    """Which weights are allowed: of a run on this very dataset, or (free) any."""
    max_bad_samples: int | None = None
    """Unreadable images that are put aside before the run is refused; by default 1 %, at least 10."""
    dry_run: bool = False
    """Say what would be done and what of it is done already; do and write nothing."""
    log: Path = Path("runs/ray.log")
    """Local file for what Ray has to say."""


def main() -> None:
    """Run the protocol and print where its results are."""
    options, recipe = parse(Options, sys.argv[1:], program="distance_matching.py", about=__doc__ or "")
    storage = Location.parse(options.storage)
    data = open_dataset(options.data, recipe, storage, options.max_bad_samples, dry=options.dry_run)
    num_images = len(data.split(options.split))
    folder = storage / (options.name or f"{recipe.recipe_name}-distance-matching")
    bad = max(10, num_images // 100) if options.max_bad_samples is None else options.max_bad_samples
    weights = find_weights(options.weights, data, options.protocol)
    whole = Run(
        folder=folder,
        recipe=recipe,
        data=data,
        connect=lambda: cluster.connect(options.log),
        limits=Limits(max_bad_samples=bad),
        weights=weights.sha256,
    )
    if options.dry_run:
        plan.show(whole, plan_distance_matching(whole, weights, shown=options.split, protocol=options.protocol))
        return
    result = run_distance_matching(whole, weights, shown=options.split, protocol=options.protocol)
    for name, scores in result["metrics"].items():
        CONSOLE.print(
            f"{name.replace('_', ' ')}: mIoU {scores['miou']:.1f}, acc {scores['acc']:.1f}, F {scores['f']:.1f}"
        )
    CONSOLE.print(f"result  {whole.folder / RESULT}")


if __name__ == "__main__":
    run(main)
