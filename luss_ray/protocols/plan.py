"""What a run would do, worked out without doing it: `--dry-run`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from rich.table import Table

from luss_ray.config.recipe import Optimisation, Recipe
from luss_ray.core.progress import CONSOLE
from luss_ray.protocols.datasets import NotPackedError
from luss_ray.protocols.flops import cost, flops_per_image
from luss_ray.stages.run import RUN, NotDoneError, Run
from luss_ray.train.finetune import segmentation_model

LABEL_BYTES = 2600
"""Of a pseudo-label or prediction with its place in a shard, at ImageNet's sizes."""
_FLOAT_BYTES = 4
_SOME = 50
"""Clusters, where their number is still to be found; they hardly count."""
_OVER_TRAIN = ("attention", "features", "estimate", "clusters", "pseudo-labels", "finetune")
"""Stages that go through the training images; others go through those that are shown."""


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of the plan."""

    name: str
    work: str
    """Images and steps it goes through, or went through."""
    num_bytes: int
    """What it leaves in the storage, about."""
    flops: float
    """Floating-point operations of its networks; see `flops_per_image`."""
    done: bool = False


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
    images = {name: len(run.data.split(name)) for name in run.data.splits}
    planned = _stages(run.recipe, names, images, splits or {}, num_categories=len(run.data.categories))
    stages = [replace(stage, done=stage.name in done) for stage in planned]
    return stages if run.weights is None else _with_given(stages)


def plan_unpacked(
    recipe: Recipe,
    data: NotPackedError,
    names: Iterable[str],
    splits: Mapping[str, str] | None = None,
    *,
    weights: bool = False,
) -> list[PlannedStage]:
    """Return the stages of a run whose images are still to be packed.

    Args:
        recipe: of the run.
        data: the images.
        names: of all stages, in their order.
        splits: see `plan`.
        weights: whether some are given.
    """
    stages = _stages(recipe, names, data.images, splits or {}, num_categories=data.num_categories)
    return _with_given(stages) if weights else stages


def _stages(
    recipe: Recipe, names: Iterable[str], images: Mapping[str, int], splits: Mapping[str, str], *, num_categories: int
) -> list[PlannedStage]:
    shown = "validation" if "validation" in images else "train"
    of_stage = {"pretrain": recipe.pretrain.split} | dict.fromkeys(_OVER_TRAIN, "train") | dict(splits)
    num_outputs = recipe.num_categories or num_categories or _SOME
    return [_planned(recipe, name, images.get(of_stage.get(name, shown), 0), num_outputs) for name in names]


def _with_given(stages: list[PlannedStage]) -> list[PlannedStage]:
    """Return the stages with the weights that were given in the place of pretraining."""
    given = {"pretrain": {"work": "the weights given", "flops": 0.0}}
    return [replace(stage, **given.get(stage.name, {})) for stage in stages]


def _planned(recipe: Recipe, name: str, images: int, num_outputs: int) -> PlannedStage:
    flops = images * flops_per_image(recipe, name, num_outputs)
    trained = {"pretrain": recipe.pretrain, "attention": recipe.attention, "finetune": recipe.finetune}
    if name in trained:
        schedule = trained[name].optimisation
        work, flops = _training(schedule, images), schedule.epochs * flops
        return PlannedStage(name=name, work=work, num_bytes=_weights(recipe), flops=flops)
    each = {"features": _FLOAT_BYTES * recipe.backbone.architecture().channels[3], "pseudo-labels": LABEL_BYTES}
    each |= {"predictions": LABEL_BYTES}
    kind = "predictions" if name.startswith("predictions") else name
    num_bytes = images * each.get(kind, 0)
    return PlannedStage(name=name, work=f"{images:,} images", num_bytes=num_bytes, flops=flops)


def _training(schedule: Optimisation, num_images: int) -> str:
    steps = schedule.epochs * num_images // schedule.batch_size
    return f"{steps:,} steps of {schedule.batch_size}: {schedule.epochs} epochs of {num_images:,} images"


def _weights(recipe: Recipe) -> int:
    with torch.device("meta"):
        network = segmentation_model(recipe, 1)
    return _FLOAT_BYTES * sum(weight.numel() for weight in network.parameters())


def show(run: Run, stages: list[PlannedStage]) -> None:
    """Print a plan."""
    data = run.data
    images = sum(len(data.split(name)) for name in data.splits)
    CONSOLE.print(f"[bold]{run.folder.uri}[/bold], recipe {run.recipe.recipe_name}; nothing has been done or written")
    CONSOLE.print(f"data {data.location.uri}: {images:,} images in {', '.join(data.splits)}, digest {data.digest[:12]}")
    _show_stages(stages)
    CONSOLE.print(f"measured here: luss-ray doctor {run.recipe.recipe_name} --data {data.location.uri}")


def show_unpacked(recipe: Recipe, data: NotPackedError, stages: list[PlannedStage]) -> None:
    """Print the plan of a run whose images are still to be packed."""
    CONSOLE.print(f"recipe {recipe.recipe_name}; nothing has been done or written")
    splits = ", ".join(f"{number:,} in {name}" for name, number in data.images.items())
    size = f", {data.num_bytes / 1e6:,.1f} MB," if data.num_bytes else ""
    CONSOLE.print(f"data {data.source} would first be packed: {splits}{size} to {data.target.uri}")
    _show_stages(stages)
    CONSOLE.print(f"measured here: luss-ray doctor {recipe.recipe_name} --images {data.images.get('train', 0)}")


def _show_stages(stages: list[PlannedStage]) -> None:
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
    CONSOLE.print(cost(flops))
