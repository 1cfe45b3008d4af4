"""Carries weights from one model to the next."""

from collections.abc import Mapping

import torch
from torch import Tensor

from luss_ray.core.errors import UserError
from luss_ray.nn.backbone import Backbone
from luss_ray.nn.models import PixelAttentionModel
from luss_ray.nn.timm_architecture import TimmArchitecture

PROJECTION_HEAD, PROTOTYPES = "projection_head.", "prototypes."
HEADS = (PROJECTION_HEAD, PROTOTYPES)


@torch.no_grad()
def load_backbone(state: Mapping[str, Tensor], into: Backbone) -> list[str]:
    """Copy the backbone's weights into a model in place and return the names of all entries copied.

    A `PixelAttentionModel` also takes the projection head and the prototypes, as far as `state` has them.

    Args:
        state: a state dict of this package, of torchvision's ResNet, a published checkpoint's (entries may start with
            "module."), or for a backbone of timm what timm reads. Other entries are left out.
        into: the model to fill; what isn't copied keeps its values.

    Raises:
        UserError: an entry is missing or of another shape, so the weights are of another architecture.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    if isinstance(into.architecture, TimmArchitecture):
        state = into.architecture.rename(state)
    prefixes = tuple(f"{name}." for name in into.layer_names)
    prefixes += HEADS if isinstance(into, PixelAttentionModel) else ()
    target = {name: value for name, value in into.state_dict().items() if name.startswith(prefixes)}
    optional = {name for name in target if name.startswith(HEADS) or name.endswith("num_batches_tracked")}
    missing = sorted(set(target) - set(state) - optional)
    if missing:
        raise UserError(
            f"the weights lack {len(missing)} of {len(target) - len(optional)} entries of the backbone "
            f"({into.architecture.about}), e.g. {missing[0]}: choose the backbone that they are of"
        )
    copied = sorted(set(target) & set(state))
    for name in copied:
        if target[name].shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)} in the weights, {tuple(target[name].shape)} in the model"
            raise UserError(f"{name} is {shapes}: give the model the architecture, width and prototypes of the weights")
        target[name].copy_(state[name])
    return copied
