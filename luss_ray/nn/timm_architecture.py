"""Backbones of timm by name: vision transformers, ConvNeXts and everything else there that gives intermediate maps."""

import difflib
import functools
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from luss_ray.core.errors import UserError
from luss_ray.nn.backbone import Maps

PREFIX = "timm:"
TRUNK = "trunk"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NORM, _POOLED_NORM = "norm.", "fc_norm."
_MISPLACED = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What timm raises of entries that its model lacks, or has in other shapes."""
_ANY_SIZE: dict[str, bool] = {"dynamic_img_size": True, "strict_img_size": False}
"""What models whose positions are learnt must be told, so that they take images of any size."""


@dataclass(frozen=True)
class TimmArchitecture:
    """A model of timm (https://github.com/huggingface/pytorch-image-models), its classifier taken off.

    Hierarchical networks give their last four stages. Networks that keep one resolution throughout, such as a ViT, give
    what they have after a quarter, a half, three quarters and all of their blocks, each with the last norm applied.
    Images are resized to the nearest multiple of the stride, so that a map covers the whole image and no more, and
    normalised as the model expects it.

    Args:
        name: timm's, e.g. "vit_small_patch16_224.dino" or "convnext_tiny"; a tag says which weights, not which layers.
        drop_path: chance with which a block is left out for a sample in training.
    """

    name: str
    drop_path: float = 0.0

    @property
    def channels(self) -> tuple[int, ...]:
        """Return the channels of c1, c2, c3 and c4."""
        return _facts(self.name).channels

    @property
    def stride(self) -> int:
        """Return how many image pixels one pixel of c4 stands for, along each side."""
        return _facts(self.name).stride

    @property
    def last_norm(self) -> str | None:
        """Return the name of the norm that c4 has gone through, where it has."""
        return f"{TRUNK}.norm" if _facts(self.name).columnar else None

    @property
    def about(self) -> str:
        """Return a few words for people."""
        return f"{PREFIX}{self.name}, {self.channels[3]} channels of stride {self.stride}"

    def layers(self) -> dict[str, nn.Module]:
        """Return the model as one layer, with fresh weights."""
        facts = _facts(self.name)
        model: Any = _create(self.name, facts.options, self.drop_path)
        model.prune_intermediate_layers(list(facts.indices), prune_norm=not facts.columnar, prune_head=True)
        return {TRUNK: model}

    def stages(self, network: nn.Module, images: Float[Tensor, "B 3 H W"]) -> Maps:
        """Return c1, c2, c3 and c4 of images normalised by ImageNet's mean and deviation."""
        facts = _facts(self.name)
        trunk: Any = network.get_submodule(TRUNK)
        c1, c2, c3, c4 = trunk.forward_intermediates(
            facts.prepared(images), indices=list(facts.indices), norm=facts.columnar, intermediates_only=True
        )
        return c1, c2, c3, c4

    def rename(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the entries of a file of weights under this backbone's names.

        Files of timm and those of the models' authors that timm knows how to read (DINO, MAE, ConvNeXt, …) are taken;
        learnt positions are resized to the model's own size; entries that have their names already stay as they are,
        and so do those that are of no such model. A norm of the pooled tokens (`fc_norm`, as MAE's fine-tuned files
        have it in the place of `norm`) is taken as the last norm where there is no other.

        Args:
            state: plain names.
        """
        mine = {name: value for name, value in state.items() if name.startswith(f"{TRUNK}.")}
        if mine:
            return dict(state)
        model = _create(self.name, _facts(self.name).options)
        renamed = _in_names_of_timm(state, model)
        if self.last_norm is not None and not any(name.startswith(_NORM) for name in renamed):
            renamed = {_last_norm(name): value for name, value in renamed.items()}
        return {self.own_name(name): value for name, value in renamed.items()}

    @staticmethod
    def own_name(name: str) -> str:
        """Return this backbone's name of an entry of timm's."""
        return name if name.startswith(f"{TRUNK}.") else f"{TRUNK}.{name}"


def _in_names_of_timm(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return entries under timm's names; what timm finds no place for in the model keeps its own."""
    read = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if read is None:
        return dict(state)
    try:
        return read(dict(state), model)
    except _MISPLACED:
        renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        try:
            renamed |= read({name: value}, model)
        except _MISPLACED:
            renamed[name] = value
    return renamed


def _last_norm(name: str) -> str:
    return _NORM + name.removeprefix(_POOLED_NORM) if name.startswith(_POOLED_NORM) else name


@dataclass(frozen=True)
class _Facts:
    channels: tuple[int, ...]
    stride: int
    indices: tuple[int, ...]
    columnar: bool
    """One resolution throughout."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: tuple[tuple[str, bool], ...]

    def prepared(self, images: Tensor) -> Tensor:
        """Return the images as the model wants them."""
        size = [max(1, round(side / self.stride)) * self.stride for side in images.shape[2:]]
        if size != list(images.shape[2:]):
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        if (self.mean, self.std) == (_IMAGENET_MEAN, _IMAGENET_STD):
            return images
        of_imagenet, of_model = (
            images.new_tensor(values).view(2, 1, 3, 1, 1)
            for values in ((_IMAGENET_MEAN, _IMAGENET_STD), (self.mean, self.std))
        )
        return (images * of_imagenet[1] + of_imagenet[0] - of_model[0]) / of_model[1]


@functools.cache
def _facts(name: str) -> _Facts:
    """Return what there is to know of a model, without making its weights.

    Raises:
        UserError: timm has no such model, or it gives no four maps.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model: Any = _create(name, ())
    stages = list(model.feature_info)
    if not hasattr(model, "forward_intermediates") or len(stages) < 4:
        raise UserError(f"{PREFIX}{name} gives no maps of four stages: take a ViT, ConvNeXt, Swin or ResNet of timm")
    strides = [stage["reduction"] for stage in stages]
    columnar, last = len(set(strides)) == 1, len(stages) - 1
    indices = [(last + 1) * quarter // 4 - 1 for quarter in (1, 2, 3, 4)] if columnar else range(last - 3, last + 1)
    accepted = inspect.signature(type(model).__init__).parameters
    facts = _Facts(
        channels=tuple(stages[index]["num_chs"] for index in indices),
        stride=strides[-1],
        indices=tuple(indices),
        columnar=columnar,
        mean=tuple(model.pretrained_cfg["mean"]),
        std=tuple(model.pretrained_cfg["std"]),
        options=tuple((option, value) for option, value in _ANY_SIZE.items() if option in accepted),
    )
    _check_takes_any_size(name, facts)
    return facts


def _check_takes_any_size(name: str, facts: _Facts) -> None:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model: Any = _create(name, facts.options)
        try:
            model.forward_intermediates(torch.zeros(1, 3, 2 * facts.stride, 3 * facts.stride))
        except AssertionError as error:
            raise UserError(f"{PREFIX}{name} takes images of one size only ({error}): take another model") from None


def _create(name: str, options: tuple[tuple[str, bool], ...], drop_path: float = 0.0) -> nn.Module:
    import timm  # noqa: PLC0415 (takes seconds, and most runs have another backbone)

    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists all"
        raise UserError(f"timm {timm.__version__} has no model {name!r}: {hint}")
    given: dict[str, Any] = dict(options)
    if drop_path:
        given["drop_path_rate"] = drop_path
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **given)
    except TypeError as error:
        raise UserError(f"{PREFIX}{name} can't be made with drop path {drop_path} ({error}): leave it at 0") from None
