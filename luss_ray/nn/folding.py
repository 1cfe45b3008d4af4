"""Networks for inference: batch norms go into the convolutions before them, which leaves fewer passes over the maps."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from luss_ray.nn.backbone import Backbone, Network, on_device
from luss_ray.nn.blocks import BasicBlock, Bottleneck
from luss_ray.nn.resnet import ResNetArchitecture

_IN_BLOCKS = [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")]


def for_inference(network: Network, device: torch.device | str) -> Network:
    """Return the network on the device, in evaluation mode, without the batch norms that follow a convolution.

    Outputs are the same but for rounding; entries of the state dict aren't, so load the weights before. Of timm's
    networks, norms are taken that stand beside their convolution in an `nn.Sequential`; theirs with an activation stay.

    Args:
        network: with its weights; changed in place.
        device: where it will run.
    """
    network.eval()
    for module in network.modules():
        for before, after in _successors(module):
            convolution, norm = getattr(module, before, None), getattr(module, after, None)
            if isinstance(convolution, nn.Conv2d) and type(norm) is nn.BatchNorm2d:
                setattr(module, before, fuse_conv_bn_eval(convolution, norm))
                setattr(module, after, nn.Identity())
    return on_device(network, device)


def _successors(module: nn.Module) -> list[tuple[str, str]]:
    """Return the names of children of which the second takes what the first gives, and nothing else does."""
    if type(module) is nn.Sequential:
        return list(pairwise(name for name, _ in module.named_children()))
    if isinstance(module, Backbone) and isinstance(module.architecture, ResNetArchitecture):
        return _IN_BLOCKS[:1]
    return _IN_BLOCKS if isinstance(module, BasicBlock | Bottleneck) else []
