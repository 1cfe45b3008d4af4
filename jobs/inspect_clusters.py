#!/usr/bin/env -S uv run
"""How good a run's clusters are, in numbers: `python jobs/inspect_clusters.py RUN [--json FILE]`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.table import Table

from luss_ray.core.command import parsed, run
from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE
from luss_ray.report.inspection import Inspection, inspect_clusters
from luss_ray.stages.cluster import MARGIN_QUANTILES
from luss_ray.stages.run import read_origin
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sizes, objective, margins, label coverage and agreement with classes of a run's clusters."""

    run: Annotated[str, tyro.conf.Positional]
    """The run, STORAGE/NAME: a folder or s3://bucket/prefix."""
    num_keys: int = 3
    """Example images named for each cluster."""
    json: Path | None = None
    """Also write everything to this file."""
    dry_run: bool = False
    """Say what would be looked at, and written; write nothing."""

    def __post_init__(self) -> None:
        if self.num_keys < 0:
            raise UserError(f"--num-keys {self.num_keys}: give 0 or more")


def main(options: Options) -> None:
    """Print the tables."""
    folder = Location.parse(options.run)
    origin = read_origin(folder)
    data = ShardedDataset.open(Location.parse(origin.data_uri))
    if data.digest != origin.data_digest:
        raise UserError(f"{origin.data_uri} is not the dataset any more that {folder.uri} was made from")
    train = data.split("train")
    if options.dry_run:
        target = f"everything would go to {options.json} as well" if options.json else "tables would be printed"
        CONSOLE.print(f"clusters of {len(train):,} images in {folder.uri}: {target}; nothing has been written")
        return
    found = inspect_clusters(folder, train)
    CONSOLE.print(_clusters(found, options.num_keys))
    if found.objective:
        CONSOLE.print(_objective(found))
        CONSOLE.print(_restarts(found))
    if found.coverage:
        CONSOLE.print(_coverage(found))
    margin = "no images" if found.margin is None else f"median margin {found.margin:.3f}"
    agreement = "" if found.nmi is None else f", NMI {found.nmi:.3f}, matched accuracy {found.accuracy:.1f} %"
    CONSOLE.print(f"{len(found.sizes)} clusters of {sum(found.sizes)} images: {margin}{agreement}")
    if options.json:
        Location.parse(options.json.parent).write(options.json.name, json.dumps(found.to_json(), indent=1).encode())


def _clusters(found: Inspection, num_keys: int) -> Table:
    table = Table(box=None, pad_edge=False, caption="5 % to 95 %: quantiles of best minus second best cosine")
    for heading in ("cluster", "images", *(f"{100 * q:.0f} %" for q in MARGIN_QUANTILES), "nearest images"):
        table.add_column(heading, justify="left" if heading == "nearest images" else "right")
    for number in np.argsort(found.sizes)[::-1]:
        margins = ["–" if value is None else f"{value:.3f}" for value in found.margins[number]]
        table.add_row(str(number + 1), str(found.sizes[number]), *margins, " ".join(found.examples[number][:num_keys]))
    return table


def _objective(found: Inspection) -> Table:
    """Return the objective of the best, the median and the worst restart by iteration."""
    table = Table(box=None, pad_edge=False)
    for heading in ("iteration", "best", "median", "worst", "restarts"):
        table.add_column(heading, justify="right")
    for iteration, values in enumerate(found.objective):
        there = [value for value in values if value is not None]
        if there:
            shown = (min(there), float(np.median(there)), max(there))
            table.add_row(str(iteration), *(f"{value:.6g}" for value in shown), str(len(there)))
    return table


def _restarts(found: Inspection) -> Table:
    """Return each restart's first and last objective, and how many iterations it took."""
    table = Table(box=None, pad_edge=False)
    for heading in ("restart", "first objective", "last", "iterations"):
        table.add_column(heading, justify="right")
    for number, values in enumerate(zip(*found.objective, strict=True), start=1):
        there = [value for value in values if value is not None]
        table.add_row(str(number), f"{there[0]:.6g}", f"{there[-1]:.6g}", str(len(there) - 1))
    return table


def _coverage(found: Inspection) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("threshold", justify="right")
    table.add_column("pixels labelled, %", justify="right")
    for threshold, share in list(found.coverage.items())[::5]:
        table.add_row(f"{threshold:.2f}", f"{share:.1f}")
    return table


if __name__ == "__main__":
    run(lambda: main(parsed(lambda: tyro.cli(Options))))
