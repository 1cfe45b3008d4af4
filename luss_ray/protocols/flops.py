"""How much arithmetic the stages take, counted on tensors that have no content."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from luss_ray.config.recipe import Recipe
from luss_ray.data.crops import CropSpec
from luss_ray.train.finetune import segmentation_model
from luss_ray.train.pixel_attention import pixel_attention_model
from luss_ray.train.pretrain import pretrain_model

_LONGER = 4 / 3
"""Sides of a common photograph, one over the other."""
_DEVICE_FLOPS = 10e12
"""In whose hours a plan's cost is told."""


def flops_per_image(recipe: Recipe, stage: str, num_outputs: int) -> float:
    """Return the floating-point operations of convolutions and matrix products that a stage takes for an image.

    Forward and, in training, backward passes as torch counts them (a multiplication and an addition are two). Whole
    images are taken to be 4:3.

    Args:
        recipe: networks, crops and sizes.
        stage: its name; 0 is the answer for those without a network.
        num_outputs: ids that the segmentation network tells apart, beside 0.
    """
    crop, whole = recipe.clustering.crop_px, _whole(recipe.shorter_side_px)
    crop_px = recipe.finetune.crop_px
    count: dict[str, Callable[[], float]] = {
        "pretrain": lambda: _pretraining(recipe),
        "features": lambda: _attending(recipe, crop, crop),
        "finetune": lambda: _segmenting(recipe, num_outputs, crop_px, crop_px, training=True),
        "predictions": lambda: _segmenting(recipe, num_outputs, *whole, training=False),
    }
    count |= dict.fromkeys(("threshold", "pseudo-labels", "references"), lambda: _attending(recipe, *whole))
    if recipe.attention.enabled:
        count["attention"] = lambda: _attention(recipe)
    kind = "predictions" if stage.startswith("predictions") else stage
    return count[kind]() if kind in count else 0.0


def flops_of(network: nn.Module, shorter_side_px: int) -> float:
    """Return the floating-point operations of a network that sees an image of 4:3.

    Args:
        network: takes (B, 3, H, W); in evaluation mode.
        shorter_side_px: of the image.
    """
    return _count(lambda: network(torch.empty(1, 3, *_whole(shorter_side_px))), training=False)


def cost(flops: float) -> str:
    """Return in words what arithmetic takes."""
    hours = flops / 3600 / _DEVICE_FLOPS
    return (
        f"cost: {flops / 1e15:,.3g} PFLOP, {hours:.2g} h on a device that gets through "
        f"{_DEVICE_FLOPS / 1e12:.0f} TFLOP/s of it"
    )


def _whole(shorter_side_px: int) -> tuple[int, int]:
    return shorter_side_px, round(shorter_side_px * _LONGER)


def _count(forward: Callable[[], Tensor], *, training: bool) -> float:
    """Return the operations of a function, which must make its own inputs, and of its gradients."""
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        with torch.set_grad_enabled(training):
            output = forward()
        if training:
            output.sum().backward()
    return float(counter.get_total_flops())


def _crops(specs: list[CropSpec]) -> list[Tensor]:
    return [torch.empty(spec.num, 3, spec.size_px, spec.size_px) for spec in specs]


def _pretraining(recipe: Recipe) -> float:
    network, settings = pretrain_model(recipe).eval(), recipe.pretrain

    def forward() -> Tensor:
        grids = torch.empty(2, 1, settings.grid, settings.grid, 2) if settings.pixel_to_pixel else None
        output = network(_crops(settings.crops.specs()), grids)
        outputs = [output.scores, *output.shallow_scores, output.predictions]
        return torch.stack([value.sum() for value in outputs if value is not None])

    return _count(forward, training=True)


def _attention(recipe: Recipe) -> float:
    network = pixel_attention_model(recipe).eval()
    return _count(lambda: network(_crops(recipe.attention.crops.specs()))[1], training=True)


def _attending(recipe: Recipe, height: int, width: int) -> float:
    network = pixel_attention_model(recipe).eval()
    return _count(lambda: network.attend(torch.empty(1, 3, height, width))[1], training=False)


def _segmenting(recipe: Recipe, num_outputs: int, height: int, width: int, *, training: bool) -> float:
    network = segmentation_model(recipe, num_outputs).eval()
    if recipe.finetune.freeze_backbone:
        network.freeze_backbone()
    return _count(lambda: network(torch.empty(1, 3, height, width)), training=training)
