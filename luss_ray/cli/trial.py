"""A few steps of a recipe's training on made-up pixels: how long a step takes here, and how much of a GPU's memory."""

import contextlib
import itertools
import os
import resource
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from luss_ray.config.recipe import Optimisation, Recipe
from luss_ray.config.recipes import SEMI_SUPERVISED
from luss_ray.data.plan import Plan
from luss_ray.protocols.rules import ANNOTATED
from luss_ray.train.finetune import FinetuneTrainee, segmentation_model
from luss_ray.train.pretrain import Pretrainee
from luss_ray.train.step import Precision, backward, prepared, tune
from luss_ray.train.swapped import CodeBook
from luss_ray.train.trainee import Trainee, World

_STEPS = 3
_CPU_IMAGES = 16
_MOST_CATEGORIES = 919
"""Of ImageNet-S; with fewer a step takes less."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a recipe's job spends its time on."""

    name: str
    """For people."""
    split: str
    """What it trains on."""
    with_masks: bool
    """Whether it learns that split's masks."""
    optimisation: Optimisation
    """Schedule."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What some steps took."""

    images_per_s: float
    """Of one worker."""
    on_gpu: bool
    """Whether the steps were a GPU's."""
    peak_bytes: int
    """Most of its memory in use; without a GPU, what as many images as a worker has in a step would take of the
    machine's, growing as it did with those that were tried."""
    total_bytes: int
    """All there is of that memory."""


def training_of(recipe: Recipe) -> Training:
    """Return what a recipe is for: pretraining, or with those of `SEMI_SUPERVISED` fine-tuning on masks."""
    if recipe.recipe_name in {semi.recipe_name for semi in SEMI_SUPERVISED}:
        optimisation = recipe.finetune.optimisation
        return Training(name="fine-tuning", split=ANNOTATED, with_masks=True, optimisation=optimisation)
    optimisation = recipe.pretrain.optimisation
    return Training(name="pretraining", split=recipe.pretrain.split, with_masks=False, optimisation=optimisation)


def measure(recipe: Recipe, num_images: int, *, num_categories: int = 0) -> Measured:
    """Return what steps of the recipe's training take on this machine, with random crops.

    Args:
        recipe: whose.
        num_images: images that a worker has in a step; a CPU tries a few of them.
        num_categories: of masks; 0 = the most there are.
    """
    world = World(rank=0, size=1, device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    num = num_images if world.device.type == "cuda" else min(num_images, _CPU_IMAGES)
    plan = Plan(np.zeros(4 * num, np.int64), seed=0, global_batch=num, epochs=1)
    if training_of(recipe).with_masks:
        trainee, batch = _finetuning(recipe, num_categories or _MOST_CATEGORIES, plan, world)
    else:
        trainee, batch = _pretraining(recipe, plan, world)
    batch |= {"epoch": np.zeros(num, np.int64), "row": np.arange(num), "used_row": np.arange(num)}
    precision = Precision.best(world.device, mixed=recipe.mixed_precision)
    before = _most_resident_bytes()
    rate = num / _seconds(trainee, batch, world, precision)
    if world.device.type == "cuda":
        total = torch.cuda.get_device_properties(world.device).total_memory
        peak = torch.cuda.max_memory_allocated(world.device)
        return Measured(images_per_s=rate, on_gpu=True, peak_bytes=peak, total_bytes=total)
    after = _most_resident_bytes()
    peak = after + (after - before) * (num_images - num) // num
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Measured(images_per_s=rate, on_gpu=False, peak_bytes=peak, total_bytes=total)


def _most_resident_bytes() -> int:
    """Return the most memory that this process ever had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _pretraining(recipe: Recipe, plan: Plan, world: World) -> tuple[Trainee, dict[str, Any]]:
    """Return what pretraining trains, and a batch of it without its places in the plan."""
    rng, num = np.random.default_rng(0), plan.global_batch
    recipe = replace(recipe, pretrain=replace(recipe.pretrain, queue=replace(recipe.pretrain.queue, length=0)))
    batch = {
        f"crops_{kind}": rng.integers(0, 256, (num, spec.num, spec.size_px, spec.size_px, 3), np.uint8)
        for kind, spec in enumerate(recipe.pretrain.crops.specs())
    }
    batch["geometry"] = np.tile(np.array([10, 10, 200, 200, 0]), (num, 2, 1))
    return Pretrainee(recipe, CodeBook(recipe.prototypes, recipe.pretrain.queue, plan, world)), batch


def _finetuning(recipe: Recipe, num_categories: int, plan: Plan, world: World) -> tuple[Trainee, dict[str, Any]]:
    """Return what fine-tuning trains, and a batch of it without its places in the plan."""
    rng, num, side = np.random.default_rng(0), plan.global_batch, recipe.finetune.crop_px
    weights = dict(segmentation_model(recipe, num_categories).state_dict())
    batch = {
        "crop": rng.integers(0, 256, (num, side, side, 3), np.uint8),
        "label": rng.integers(0, num_categories + 1, (num, side, side), np.uint16),
    }
    return FinetuneTrainee(recipe, weights, num_categories, plan, world, annotated=True), batch


def _seconds(trainee: Trainee, arrays: dict[str, Any], world: World, precision: Precision) -> float:
    """Return the seconds of a step, after one that warms up."""
    tune(world.device)
    started = time.perf_counter()
    with contextlib.closing(prepared(itertools.repeat(arrays), trainee, world.device)) as coming:
        for step, (_, inputs) in zip(range(1 + _STEPS), coming, strict=False):
            if step == 1:
                started = time.perf_counter()
            trainee.optimiser.zero_grad(set_to_none=True)
            figures = backward(trainee, trainee.network, inputs, step=step, share=1.0, world=world, precision=precision)
            figures["loss"].item()
            precision.update(trainee.optimiser)
        return (time.perf_counter() - started) / _STEPS
