"""What a run would do, worked out without doing it: `--dry-run`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from rich.table import Table

from luss_ray.config.recipe import Optimisation
from luss_ray.core.progress import CONSOLE
from luss_ray.stages.run import RUN, NotDoneError, Run
from luss_ray.train.finetune import segmentation_model

_LABEL_BYTES = 2600
"""Of a pseudo-label or prediction with its place in a shard, at ImageNet's sizes."""
_FLOAT_BYTES = 4
_OVER_TRAIN = ("attention", "features", "estimate", "clusters", "pseudo-labels", "finetune")
"""Stages that go through the training images; others go through those that are shown."""


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of the plan."""

    name: str
    done: bool
    work: str
    """Images and steps it goes through, or went through."""
    num_bytes: int
    """What it leaves in the storage, about."""


def plan(
    run: Run, walk: Callable[[Run], Iterable], names: Iterable[str], splits: Mapping[str, str] | None = None
) -> list[PlannedStage]:
    """Return the stages of a run and which of them are done; nothing is written, and no cluster is joined.

    Args:
        run: what would be done.
        walk: goes through its stages, as the job does.
        names: of all stages, in their order.
        splits: of those stages that go through others than PASS's own.

    Raises:
        UserError: the job would refuse at its start.
    """
    if run.folder.exists(RUN):
        run.check_signature()
    done: set[str] = set()
    try:
        for _ in walk(replace(run, on_stage=done.add)):
            pass
    except NotDoneError:
        pass
    own = {"pretrain": run.recipe.pretrain.split} | dict.fromkeys(_OVER_TRAIN, "train")
    of_stage = own | dict(splits or {})
    return [_planned(run, name, name in done, of_stage.get(name, run.shown_split)) for name in names]


def _planned(run: Run, name: str, done: bool, split: str) -> PlannedStage:
    recipe, images = run.recipe, len(run.data.split(split))
    trained = {"pretrain": recipe.pretrain, "attention": recipe.attention, "finetune": recipe.finetune}
    if name in trained:
        work = _training(trained[name].optimisation, images)
        return PlannedStage(name=name, done=done, work=work, num_bytes=_weights(run))
    each = {"features": _FLOAT_BYTES * recipe.backbone.architecture().channels[3], "pseudo-labels": _LABEL_BYTES}
    each |= {"predictions": _LABEL_BYTES}
    kind = "predictions" if name.startswith("predictions") else name
    num_bytes = images * each.get(kind, 0)
    return PlannedStage(name=name, done=done, work=f"{images:,} images", num_bytes=num_bytes)


def _training(schedule: Optimisation, num_images: int) -> str:
    steps = schedule.epochs * num_images // schedule.batch_size
    return f"{steps:,} steps of {schedule.batch_size}: {schedule.epochs} epochs of {num_images:,} images"


def _weights(run: Run) -> int:
    with torch.device("meta"):
        network = segmentation_model(run.recipe, 1)
    return _FLOAT_BYTES * sum(weight.numel() for weight in network.parameters())


def show(run: Run, stages: list[PlannedStage]) -> None:
    """Print a plan."""
    data = run.data
    images = sum(len(data.split(name)) for name in data.splits)
    CONSOLE.print(f"[bold]{run.folder.uri}[/bold], recipe {run.recipe.recipe_name}; nothing has been done or written")
    CONSOLE.print(f"data {data.location.uri}: {images:,} images in {', '.join(data.splits)}, digest {data.digest[:12]}")
    table = Table("", "stage", "work", "leaves about", box=None, pad_edge=False)
    for stage in stages:
        size = f"{stage.num_bytes / 1e6:,.1f} MB" if stage.num_bytes else ""
        table.add_row("[green]✓[/green]" if stage.done else "·", stage.name, stage.work, size)
    CONSOLE.print(table)
    total = sum(stage.num_bytes for stage in stages if not stage.done)
    CONSOLE.print(
        f"to do: {sum(not stage.done for stage in stages)} of {len(stages)} stages, which leave about "
        f"{total / 1e6:,.0f} MB\nhours here: luss-ray doctor {run.recipe.recipe_name} --data {data.location.uri}"
    )
