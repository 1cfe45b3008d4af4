"""ConvNeXts whose receptive fields are searched for (RF-ConvNeXt), in the four modes that follow one another."""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from luss_ray.core.errors import UserError
from luss_ray.nn.backbone import Backbone
from luss_ray.nn.rf_conv import BRANCHES, NUM_BRANCHES, RFConv2d, dilations_in, estimate, expand, merge
from luss_ray.nn.timm_architecture import TimmArchitecture

PREFIX = "rf-next:"
_LAYER = "conv_dw"
_ORIGINAL = re.compile(r"stages\.(\d+)\.(\d+)\.dwconv\.")
"""What the authors' ConvNeXt calls that layer."""
_KERNEL = re.compile(rf"(.*\.{_LAYER})\.weight")


class RFMode(enum.Enum):
    """What becomes of the branches of a receptive-field convolution."""

    SEARCH = "search"
    """Their weights are trained, and from time to time their dilations move on; from a ConvNeXt's weights."""
    SINGLE = "single"
    """One branch, with the dilation that was found; from the weights of a search."""
    MULTIPLE = "multiple"
    """The branches around the dilation that was found, whose weights are trained; from the weights of a search."""
    MERGE = "merge"
    """All branches folded into one larger kernel; from the weights of `multiple`. Only these kernels and the head are
    trained."""

    @property
    def branched(self) -> bool:
        """Whether the branches have weights."""
        return self in (RFMode.SEARCH, RFMode.MULTIPLE)


@dataclass(frozen=True)
class RFNextArchitecture(TimmArchitecture):
    """A ConvNeXt of timm, its depthwise convolutions replaced by `RFConv2d`.

    Args:
        name: timm's, e.g. "convnext_tiny".
        drop_path: chance with which a block is left out for a sample in training.
        mode: what the convolutions do.

    Source: Gao et al., "RF-Next", arXiv 2206.06637, as ImageNetSegModel uses it.
    """

    mode: RFMode = RFMode.SEARCH

    @property
    def about(self) -> str:
        """Return a few words for people."""
        return f"{PREFIX}{self.name} ({self.mode.value}), {self.channels[3]} channels of stride {self.stride}"

    def layers(self) -> dict[str, nn.Module]:
        """Return the model as one layer, with fresh weights.

        Raises:
            UserError: it has no depthwise convolutions to replace.
        """
        layers = super().layers()
        found = [
            module
            for layer in layers.values()
            for module in layer.modules()
            if isinstance(getattr(module, _LAYER, None), nn.Conv2d)
        ]
        if not found:
            raise UserError(f"{PREFIX}{self.name}: no depthwise convolution to search with; take a ConvNeXt of timm")
        for module in found:
            setattr(module, _LAYER, RFConv2d(getattr(module, _LAYER), branched=self.mode.branched))
        return layers

    def rename(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the entries of a file of weights under this backbone's names; see `TimmArchitecture.rename`.

        Args:
            state: plain names; those of the branches may lie beside timm's or the original ConvNeXt's.
        """
        state = {_ORIGINAL.sub(rf"stages.\1.blocks.\2.{_LAYER}.", name): value for name, value in state.items()}
        own = {name: value for name, value in state.items() if name.endswith(tuple(f"{_LAYER}.{e}" for e in BRANCHES))}
        renamed = super().rename({name: value for name, value in state.items() if name not in own})
        return renamed | {self.own_name(name): value for name, value in own.items()}

    @torch.no_grad()
    def begin(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights that this mode starts from.

        Args:
            state: of the mode before, or of a ConvNeXt, under any of the names that `rename` knows.

        Raises:
            UserError: there are no branches to merge, or they are merged already, or their dilations aren't all there.
        """
        state = self.rename(state)
        for name in [name for name in state if _KERNEL.fullmatch(name)]:
            layer = name.removesuffix(".weight")
            given = {entry: state.pop(f"{layer}.{entry}") for entry in BRANCHES if f"{layer}.{entry}" in state}
            if ("rates" in given) != ("num_rates" in given):
                raise UserError(f"{layer} has one of rates and num_rates alone: give the whole file of weights")
            dilations = dilations_in(given["rates"], given["num_rates"]) if "rates" in given else [1]
            weights = given.get("sample_weights", torch.ones(NUM_BRANCHES))[: len(dilations)]
            if self.mode is RFMode.MERGE:
                if len(dilations) == 1:
                    raise UserError(
                        f"{layer} has no branches to merge: give the weights of --backbone.rf-mode multiple"
                    )
                state[name] = merge(state[name], weights, dilations)
                dilations = [1]
            elif self.mode.branched:
                dilations = expand(estimate(weights, dilations))
                state[f"{layer}.sample_weights"] = RFConv2d.fresh_weights()
            else:
                dilations = [estimate(weights, dilations)]
            state |= {f"{layer}.{entry}": value for entry, value in RFConv2d.as_buffers(dilations).items()}
        return state

    def freeze(self, network: Backbone) -> None:
        """Leave of a merged backbone only the kernels that grew to be trained; other modes train all of it."""
        if self.mode is RFMode.MERGE:
            for name in network.layer_names:
                network.get_submodule(name).requires_grad_(False)
            for convolution in rf_convolutions(network):
                convolution.requires_grad_(convolution.is_wide)


def fit_kernels(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network's receptive-field convolutions the sizes that their kernels have in a state dict.

    Args:
        network: changed in place; the kernels that are resized have no values.
        state: under the network's names.
    """
    for name, module in network.named_modules():
        if isinstance(module, RFConv2d) and f"{name}.weight" in state:
            module.fit(state[f"{name}.weight"])


def rf_convolutions(network: nn.Module) -> list[RFConv2d]:
    """Return the receptive-field convolutions of a network, from the image on."""
    return [module for module in network.modules() if isinstance(module, RFConv2d)]
