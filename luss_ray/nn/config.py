"""What a state dict is of: told from its entries, written beside it as config.json, and built from it again."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from luss_ray.core.errors import UserError
from luss_ray.nn.backbone import Backbone
from luss_ray.nn.heads import SegmentationHead
from luss_ray.nn.models import PixelAttentionModel, PretrainModel, SegmentationModel
from luss_ray.nn.resnet import ResNetArchitecture
from luss_ray.nn.rf_next import RFNextArchitecture, fit_kernels
from luss_ray.nn.timm_architecture import TRUNK, TimmArchitecture

FORMAT = 2
KnownArchitecture = ResNetArchitecture | TimmArchitecture | RFNextArchitecture
RESNET = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")
Form = Literal["backbone", "pretrain", "pixel-attention", "segmentation"]
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.")
_SHALLOW = re.compile(r"projection_head_shallow\.projection_head_shallow(\d)\.")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One of the method's models: which heads on which backbone."""

    form: Form
    """The backbone alone, or the model of a training stage."""
    architecture: KnownArchitecture
    """The backbone."""
    hidden: int | None = None
    """Width of the projection heads' hidden layer; of pretraining and pixel attention."""
    num_prototypes: int | None = None
    """Prototypes K; of the same."""
    embedding_dim: int | None = None
    """Length D of an embedding; of the same."""
    shallow_stages: tuple[int, ...] = ()
    """Stages under deep-to-shallow supervision; of pretraining."""
    attentive: bool = True
    """Whether there is an attention; of pixel attention, which can be left out."""
    num_categories: int | None = None
    """Categories N beside "other"; of segmentation."""
    head: SegmentationHead = field(default_factory=SegmentationHead)
    """Around the classifier; of segmentation."""

    def build(self) -> Backbone:
        """Return the model with fresh weights."""
        heads = {"hidden": self.hidden, "num_prototypes": self.num_prototypes, "embedding_dim": self.embedding_dim}
        match self.form:
            case "pretrain":
                return PretrainModel(self.architecture, **heads, shallow_stages=self.shallow_stages)  # pyright: ignore[reportArgumentType]
            case "pixel-attention":
                return PixelAttentionModel(self.architecture, **heads, attentive=self.attentive)  # pyright: ignore[reportArgumentType]
            case "segmentation":
                assert self.num_categories is not None
                return SegmentationModel(self.architecture, num_categories=self.num_categories, head=self.head)
        return Backbone(self.architecture)

    def check(self, state: Mapping[str, Tensor]) -> list[str]:
        """Return the sorted names of entries that the model does not have.

        Raises:
            UserError: one of the model's entries is missing or of another shape.
        """
        with torch.device("meta"):
            model = self.build()
            fit_kernels(model, state)
            target = model.state_dict()
        missing = sorted(name for name in target if name not in state and not name.endswith("num_batches_tracked"))
        if missing:
            raise UserError(
                f"the weights look like a {self.form} model, but lack {len(missing)} entries: {missing[0]}, …"
            )
        for name, value in target.items():
            if name in state and state[name].shape != value.shape:
                raise UserError(
                    f"{name} is {tuple(state[name].shape)} in the weights, "
                    f"{tuple(value.shape)} in the {self.form} model that the other entries belong to"
                )
        return sorted(set(state) - set(target))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, which `from_json` reads."""
        return {"format": FORMAT, "model": TypeAdapter(ModelConfig).dump_python(self, mode="json")}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ModelConfig":
        """Return what `to_json` wrote.

        Raises:
            UserError: it is of another version, or was changed by hand.
        """
        version = values.get("format")
        if version != FORMAT:
            raise UserError(
                f"config.json has format {version}, this version reads {FORMAT}: use the version that wrote "
                "it, or convert the checkpoint again"
            )
        try:
            return TypeAdapter(cls).validate_python(values.get("model"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"config.json does not describe a model ({where}: {first['msg']})") from None


def identify(
    state: Mapping[str, Tensor],
    *,
    architecture: KnownArchitecture | None = None,
    head: SegmentationHead | None = None,
    dilate_last: bool = False,
) -> ModelConfig:
    """Return which model the entries of a state dict belong to, by their names and shapes.

    Args:
        state: entries with plain names.
        architecture: the backbone's, where it is known.
        head: of a segmentation network, where it is known; its patches and upsampling leave no trace in the entries.
        dilate_last: where it is not, whether the last stage is dilated (D16), which leaves no trace in the entries.

    Raises:
        UserError: they are not those of a residual network, or of one whose strides can't be told.
    """
    architecture = architecture or _architecture(state, dilate_last=dilate_last)
    if "last_layer.weight" in state:
        head = head or SegmentationHead(norm="last_norm.weight" in state)
        num_categories = len(state["last_layer.weight"]) // head.patch**2 - 1
        return ModelConfig(form="segmentation", architecture=architecture, num_categories=num_categories, head=head)
    if "prototypes.weight" not in state or "projection_head.0.weight" not in state:
        return ModelConfig(form="backbone", architecture=architecture)
    num_prototypes, embedding_dim = state["prototypes.weight"].shape
    attends, has_pixel_heads = (
        any(name.startswith(head) for name in state) for head in ("fbg.", "predictor_head_pixel.")
    )
    shallow = {int(found[1]): None for name in state if (found := _SHALLOW.match(name))}
    return ModelConfig(
        form="pretrain" if has_pixel_heads else "pixel-attention",
        architecture=architecture,
        hidden=len(state["projection_head.0.weight"]),
        num_prototypes=num_prototypes,
        embedding_dim=embedding_dim,
        shallow_stages=tuple(shallow) if has_pixel_heads else (),
        attentive=attends or has_pixel_heads,
    )


def _architecture(state: Mapping[str, Tensor], *, dilate_last: bool) -> ResNetArchitecture:
    blocks = {(int(found[1]), int(found[2])) for name in state if (found := _BLOCK.match(name))}
    stem = state.get("conv1.weight")
    if stem is None or {stage for stage, _ in blocks} != {1, 2, 3, 4}:
        raise UserError("these are not the weights of a ResNet: conv1 and layer1 .. layer4 were looked for")
    if tuple(stem.shape[1:]) != (3, 7, 7):
        raise UserError(
            f"conv1 is {tuple(stem.shape)}: strides can't be told from the entries of a network for small images; "
            "give the folder of the run that made it"
        )
    bottleneck = "layer1.0.conv3.weight" in state
    if dilate_last and not bottleneck:
        raise UserError("these weights have basic blocks (ResNet-18 or -34), of which there is no D16")
    widths = [len(state[f"layer{stage}.0.conv1.weight"]) for stage in (1, 2, 3, 4)]
    layers = [sum(block[0] == stage for block in blocks) for stage in (1, 2, 3, 4)]
    return ResNetArchitecture(
        "bottleneck" if bottleneck else "basic",
        (layers[0], layers[1], layers[2], layers[3]),
        widths=(widths[0], widths[1], widths[2], widths[3]),
        stem_width=0 if len(stem) == widths[0] else len(stem),
        dilate_last=dilate_last,
    )


def backbone_entries(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the backbone's entries under the names that torchvision or timm has for them."""
    of_timm = f"{TRUNK}."
    return {name.removeprefix(of_timm): value for name, value in state.items() if name.startswith((*RESNET, of_timm))}
