"""Optimisers of a network's parameters, each layer with a rate of its own where that is asked."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from luss_ray.config.recipe import Optimisation, Optimiser
from luss_ray.nn.rf_conv import RFConv2d
from luss_ray.optim.larc import Larc

_LAYER = re.compile(r"(?:.*\.)?(?:layer\d+\.\d+|blocks\.\d+|stages\.\d+\.downsample|layers\.\d+\.downsample)\.")
RATE = "lr_scale"
"""Entry of a parameter group: its share of the schedule's learning rate."""


def layer_numbers(names: Iterable[str]) -> dict[str, int]:
    """Return the layer that each parameter belongs to, counted from the image on.

    Layer 0 is all there is before the first block: stem, patch embedding, class token and positions. Then every
    residual or transformer block, and every downsampling between stages, is a layer of its own. The last layer is what
    belongs to none of them: the last norm and the heads.

    Args:
        names: of a network's parameters, in its own order.

    Source: layer-wise rates as in Clark et al., "ELECTRA", arXiv 2003.10555, and Bao et al., "BEiT", arXiv 2106.08254.
    """
    layers: dict[str, int] = {}
    found = [(name, match[0] if (match := _LAYER.match(name)) else None) for name in names]
    for _, layer in found:
        if layer is not None:
            layers.setdefault(layer, len(layers) + 1)
    last, seen, numbers = len(layers) + 1, False, {}
    for name, layer in found:
        seen = seen or layer is not None
        numbers[name] = layers[layer] if layer is not None else last if seen else 0
    return numbers


def parameter_groups(network: nn.Module, settings: Optimisation) -> list[dict[str, Any]]:
    """Return the parameters to be trained in groups that share rate and weight decay.

    A parameter in layer i of L has `layers.decay ** (L - i)` of the schedule's rate; those with one dimension have no
    weight decay. The branch weights of receptive-field convolutions, and the kernels of those whose dilation is not 1
    any more, have `layers.rf_multiplier * layers.rf_decay ** (L - i)`.

    Args:
        network: whose they are.
        settings: rates and weight decay.
    """
    numbers, searched = layer_numbers(name for name, _ in network.named_parameters()), _searched(network)
    rates, groups = settings.layers, {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        below = max(numbers.values()) - numbers[name]
        rate = rates.rf_multiplier * rates.rf_decay**below if name in searched else rates.decay**below
        weight_decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        group = groups.setdefault((rate, weight_decay), {"params": [], RATE: rate, "weight_decay": weight_decay})
        group["params"].append(parameter)
    return list(groups.values())


def _searched(network: nn.Module) -> set[str]:
    names: set[str] = set()
    for prefix, module in network.named_modules():
        if isinstance(module, RFConv2d):
            own = {name for name, _ in module.named_parameters()}
            names |= {f"{prefix}.{name}" for name in (own if module.is_wide else own & {"sample_weights"})}
    return names


def make_optimiser(network: nn.Module, settings: Optimisation) -> torch.optim.Optimizer:
    """Return the optimiser of the parameters that are to be trained."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    match settings.optimiser:
        case Optimiser.LARC:
            return Larc(parameters, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
        case Optimiser.SGD:
            return torch.optim.SGD(
                parameters, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
            )
        case Optimiser.ADAMW:
            return torch.optim.AdamW(parameter_groups(network, settings), settings.lr)
