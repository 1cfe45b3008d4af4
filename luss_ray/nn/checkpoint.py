"""Carries weights from one model to the next."""

from collections.abc import Mapping

from torch import Tensor

from luss_ray.core.errors import UserError
from luss_ray.nn.backbone import Backbone
from luss_ray.nn.models import PixelAttentionModel, SegmentationModel
from luss_ray.nn.rf_conv import BRANCHES
from luss_ray.nn.rf_next import fit_kernels
from luss_ray.nn.timm_architecture import TimmArchitecture

PROJECTION_HEAD, PROTOTYPES = "projection_head.", "prototypes."
HEADS = (PROJECTION_HEAD, PROTOTYPES)
_CLASSIFIERS, _NORMS = ("seg_head.fc.", "head."), ("seg_norm.", "fc_norm.")
"""What ImageNetSegModel calls the classifier and the norm before it."""
_OPTIONAL = ("num_batches_tracked", *BRANCHES)


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
    fit_kernels(into, state)
    prefixes = tuple(f"{name}." for name in into.layer_names)
    prefixes += HEADS if isinstance(into, PixelAttentionModel) else ()
    target = {name: value for name, value in into.state_dict().items() if name.startswith(prefixes)}
    if into.starts_anew is not None:
        target = {name: value for name, value in target.items() if not name.startswith(f"{into.starts_anew}.")}
    optional = {name for name in target if name.startswith(HEADS) or name.endswith(_OPTIONAL)}
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
    into.load_state_dict({name: state[name] for name in copied}, strict=False)
    return copied


def load_segmentation(state: Mapping[str, Tensor], into: SegmentationModel) -> None:
    """Give a model, in place, all weights of one that was fine-tuned.

    Args:
        state: of this package, or of a model of ImageNetSegModel.
        into: the model to fill.

    Raises:
        UserError: they are of another architecture or head, or tell other categories apart.
    """
    target = into.state_dict()
    if "last_layer.weight" not in state:
        norm = into.starts_anew or "last_norm"
        names = dict.fromkeys(_CLASSIFIERS, "last_layer.") | dict.fromkeys(_NORMS, f"{norm}.")
        theirs = {name: old for name in state for old in names if name.startswith(old)}
        heads = {names[old] + name.removeprefix(old): state[name] for name, old in theirs.items()}
        rest = {name: value for name, value in state.items() if name not in theirs}
        if isinstance(into.architecture, TimmArchitecture):
            rest = into.architecture.rename(rest)
        state = rest | heads
    missing = sorted(name for name in target if name not in state and not name.endswith("num_batches_tracked"))
    if missing:
        raise UserError(
            f"the weights lack {len(missing)} of {len(target)} entries of a fine-tuned network on "
            f"{into.architecture.about}, e.g. {missing[0]}: choose the recipe that they were trained with"
        )
    outputs, wanted = len(state["last_layer.weight"]), len(target["last_layer.weight"])
    if outputs != wanted:
        each = into.head.patch**2
        raise UserError(
            f"the weights tell {outputs // each - 1} categories apart, the data has {wanted // each - 1}: give "
            "the data that they were trained on"
        )
    try:
        into.load_state_dict({name: value for name, value in state.items() if name in target}, strict=False)
    except RuntimeError as error:
        raise UserError(f"the weights are of another architecture than {into.architecture.about}: {error}") from None
