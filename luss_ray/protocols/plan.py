"""What a run would do, worked out without doing it: `--dry-run`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from rich.table import Table

from luss_ray.config.recipe import Optimisation
from luss_ray.core.progress import CONSOLE
from luss_ray.protocols.flops import flops_per_image
from luss_ray.stages.run import RUN, NotDoneError, Run
from luss_ray.train.finetune import segmentation_model

_LABEL_BYTES = 2600
"""Of a pseudo-label or prediction with its place in a shard, at ImageNet's sizes."""
_FLOAT_BYTES = 4
_DEVICE_FLOPS = 10e12
"""In whose hours a plan's cost is told."""
_SOME = 50
"""Clusters, where their number is still to be found; they hardly count."""
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
    flops: float
    """Floating-point operations of its networks; see `flops_per_image`."""


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
    if name == "pretrain" and run.weights is not None:
        return PlannedStage(name=name, done=done, work="the weights given", num_bytes=_weights(run), flops=0.0)
    flops = images * flops_per_image(recipe, name, recipe.num_categories or len(run.data.categories) or _SOME)
    trained = {"pretrain": recipe.pretrain, "attention": recipe.attention, "finetune": recipe.finetune}
    if name in trained:
        schedule = trained[name].optimisation
        work, flops = _training(schedule, images), schedule.epochs * flops
        return PlannedStage(name=name, done=done, work=work, num_bytes=_weights(run), flops=flops)
    each = {"features": _FLOAT_BYTES * recipe.backbone.architecture().channels[3], "pseudo-labels": _LABEL_BYTES}
    each |= {"predictions": _LABEL_BYTES}
    kind = "predictions" if name.startswith("predictions") else name
    num_bytes = images * each.get(kind, 0)
    return PlannedStage(name=name, done=done, work=f"{images:,} images", num_bytes=num_bytes, flops=flops)


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
    table = Table("", "stage", "work", "arithmetic", "leaves about", box=None, pad_edge=False)
    for place in (3, 4):
        table.columns[place].justify = "right"
    for stage in stages:
        size = f"{stage.num_bytes / 1e6:,.1f} MB" if stage.num_bytes else ""
        flops = f"{stage.flops / 1e12:,.1f} TFLOP" if stage.flops else ""
        table.add_row("[green]✓[/green]" if stage.done else "·", stage.name, stage.work, flops, size)
    CONSOLE.print(table)
    left = [stage for stage in stages if not stage.done]
    num_bytes, flops = sum(stage.num_bytes for stage in left), sum(stage.flops for stage in left)
    CONSOLE.print(f"to do: {len(left)} of {len(stages)} stages, which leave about {num_bytes / 1e6:,.0f} MB")
    CONSOLE.print(
        f"cost: {flops / 1e15:,.3g} PFLOP, {flops / 3600 / _DEVICE_FLOPS:.2g} h on a device that gets through "
        f"{_DEVICE_FLOPS / 1e12:.0f} TFLOP/s of it; measured here: "
        f"luss-ray doctor {run.recipe.recipe_name} --data {data.location.uri}"
    )
