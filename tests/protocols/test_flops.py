from dataclasses import replace

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from luss_ray.config.recipes import RECIPES
from luss_ray.protocols.flops import flops_per_image

RECIPE = RECIPES["imagenet-s-50"]()


def test_the_backbone_counts_as_torchvisions():
    """Pixel attention comes on top: two convolutions of 512 x 512, one of them at four times the resolution."""
    network = torchvision.models.resnet18(weights=None).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, 224, 224))
    attention = 2 * 512**2 * (7 * 7 + 28 * 28)
    classifier = 2 * 512 * 1000
    expected = counter.get_total_flops() - classifier + attention
    assert flops_per_image(RECIPE, "features", 50) == pytest.approx(expected, rel=1e-3)


def test_training_goes_back_too_where_there_is_something_to_learn():
    square = replace(RECIPE, shorter_side_px=224)
    forward = flops_per_image(square, "predictions-test", 50) * 3 / 4
    assert 2.7 < flops_per_image(RECIPE, "finetune", 50) / forward < 3
    frozen = replace(RECIPE, finetune=replace(RECIPE.finetune, freeze_backbone=True))
    assert flops_per_image(frozen, "finetune", 50) < 1.05 * forward


def test_stages_without_a_network_count_nothing():
    assert flops_per_image(RECIPE, "clusters", 50) == flops_per_image(RECIPE, "evaluation", 50) == 0
    without = replace(RECIPE, attention=replace(RECIPE.attention, enabled=False))
    assert flops_per_image(without, "attention", 50) == 0
