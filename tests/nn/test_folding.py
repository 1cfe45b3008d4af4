"""Networks whose batch norms went into their convolutions say what they said before."""

import copy

import pytest
import torch
from torch import nn

from luss_ray.nn.backbone import Network
from luss_ray.nn.folding import for_inference
from luss_ray.nn.models import PixelAttentionModel, SegmentationModel
from luss_ray.nn.resnet import ResNetArchitecture, resnet18, resnet50, resnet_tiny
from luss_ray.nn.timm_architecture import TimmArchitecture

NARROW = ResNetArchitecture("bottleneck", (1, 2, 1, 2), widths=(4, 8, 8, 16), dilate_last=True)
_IMAGES = torch.randn(2, 3, 96, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def with_statistics(network: Network) -> Network:
    """Return the network in float64, its norms having seen something."""
    generator = torch.Generator().manual_seed(1)
    for module in network.double().modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            nn.init.normal_(module.weight, 1.0, 0.3, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.3, generator=generator)
    return network.eval()


def norms(network: nn.Module) -> int:
    """Return how many batch norms of maps there are."""
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("architecture", [resnet18(), resnet50(), resnet_tiny(), NARROW])
def test_features_and_attention_stay(architecture):
    plain = with_statistics(PixelAttentionModel(architecture, hidden=8, num_prototypes=4))
    folded = for_inference(copy.deepcopy(plain), "cpu")
    with torch.inference_mode():
        for ours, expected in zip(folded.attend(_IMAGES), plain.attend(_IMAGES), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    assert norms(plain) > 0 == norms(folded)


@pytest.mark.parametrize(("name", "left"), [("test_resnet", 10), ("efficientnet_lite0", 48), ("test_vit", 0)])
def test_networks_of_timm_say_what_they_said(name, left):
    """In EfficientNets a norm has the activation as well: such ones stay."""
    plain = with_statistics(SegmentationModel(TimmArchitecture(name), num_categories=3))
    folded = for_inference(copy.deepcopy(plain), "cpu")
    with torch.inference_mode():
        torch.testing.assert_close(folded(_IMAGES[:, :, :64]), plain(_IMAGES[:, :, :64]))
    assert norms(folded) == left
