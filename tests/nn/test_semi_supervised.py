"""The networks of semi-supervised fine-tuning, and the weights that people bring for them."""

import pytest
import timm
import torch
from torch import Tensor

from luss_ray.config.recipes import SEMI_SUPERVISED
from luss_ray.core.errors import UserError
from luss_ray.nn.backbone import Backbone
from luss_ray.nn.checkpoint import load_backbone, load_segmentation
from luss_ray.nn.heads import PatchLogits, SegmentationHead
from luss_ray.nn.models import SegmentationModel
from luss_ray.nn.resnet import resnet18, resnet_tiny
from luss_ray.nn.timm_architecture import TimmArchitecture
from luss_ray.nn.weights import state_dict_in
from luss_ray.train.finetune import segmentation_model

VIT, CONVNEXT = TimmArchitecture("test_vit"), TimmArchitecture("test_convnext")
WITH_NORM = SegmentationHead(norm=True, patch=2, std=0.02)


@pytest.mark.parametrize("recipe", SEMI_SUPERVISED, ids=lambda recipe: recipe.recipe_name)
def test_networks_have_the_published_sizes(recipe) -> None:
    """Logits of a 224 px crop: stride 16 for ViT and D32 (upsampled), 8 for D16 and ConvNeXt; sizes in millions."""
    with torch.device("meta"):
        network = segmentation_model(recipe, 919)
        logits = network(torch.empty(1, 3, 224, 224))
    kind = recipe.recipe_name.removeprefix("semi-")
    side = 28 if "convnext" in kind or kind.endswith("d16") else 14
    assert logits.shape == (1, 920, side, side)
    backbone = sum(weight.numel() for name, weight in network.named_parameters() if not name.startswith("last_")) / 1e6
    millions = {"vit-b": 85.8, "vit-s": 21.7, "resnet": 23.5, "convne": 27.8, "rf-con": 27.8}
    assert backbone == pytest.approx(millions[kind[:6]] if kind[:6] in millions else millions[kind[:5]], abs=0.11)


def test_patches_are_put_side_by_side() -> None:
    layer, features = PatchLogits(4, 3, SegmentationHead(patch=2)), torch.randn(2, 4, 5, 6)
    logits, flat = layer(features), torch.nn.functional.conv2d(features, layer.weight, layer.bias)
    assert logits.shape == (2, 3, 10, 12)
    for row, column, output in [(0, 0, 0), (1, 0, 2), (0, 1, 1), (1, 1, 2)]:
        channel = (row * 2 + column) * 3 + output
        torch.testing.assert_close(logits[:, output, row::2, column::2], flat[:, channel])


def test_heads_begin_as_published() -> None:
    torch.manual_seed(0)
    layer = PatchLogits(256, 10, SegmentationHead(patch=4, std=0.02))
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05) and not layer.bias.any()  # pyright: ignore[reportOptionalMemberAccess]


def test_the_norm_before_the_head() -> None:
    """A ConvNeXt gets one; a ViT's own last norm takes that place and starts anew."""
    convnext = SegmentationModel(CONVNEXT, num_categories=3, head=WITH_NORM).eval()
    pixels = torch.randn(1, 3, 64, 64)
    features = convnext.stages(pixels)[3]
    expected = torch.nn.functional.layer_norm(features.movedim(1, 3), (convnext.channels[3],), eps=1e-6).movedim(3, 1)
    torch.testing.assert_close(convnext(pixels), convnext.last_layer(expected))
    vit = SegmentationModel(VIT, num_categories=3, head=SegmentationHead(norm=True, std=2e-5))
    assert vit.last_norm is None
    brought = {name: torch.full_like(value, 3.0) for name, value in Backbone(VIT).state_dict().items()}
    load_backbone(brought, vit)
    assert (vit.state_dict()["trunk.norm.weight"] == 1).all() and (vit.state_dict()["trunk.norm.bias"] == 0).all()
    assert (vit.state_dict()["trunk.blocks.0.norm1.weight"] == 3).all()


def test_drop_path_leaves_blocks_out_in_training_alone() -> None:
    backbone, pixels = Backbone(TimmArchitecture("test_vit", drop_path=0.5)), torch.randn(8, 3, 64, 64)
    backbone.train()
    assert not torch.equal(backbone.stages(pixels)[3], backbone.stages(pixels)[3])
    backbone.eval()
    assert torch.equal(backbone.stages(pixels)[3], backbone.stages(pixels)[3])
    with pytest.raises(UserError, match="drop path"):
        Backbone(TimmArchitecture("vgg11", drop_path=0.5))


def facebook_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ConvNeXt's entries as its authors' checkpoints have them."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "stem":
            parts = ["downsample_layers", "0", *parts[1:]]
        elif parts[0] == "stages" and parts[2] == "downsample":
            parts = ["downsample_layers", parts[1], *parts[3:]]
        elif parts[0] == "stages":
            new = {"conv_dw": "dwconv", "mlp": "", "fc1": "pwconv1", "fc2": "pwconv2"}
            parts = ["stages", parts[1], *(new.get(part, part) for part in parts[3:])]
        elif parts[:2] == ["head", "norm"]:
            parts = ["norm", *parts[2:]]
        elif parts[:2] == ["head", "fc"]:
            parts = ["head", *parts[2:]]
        renamed[".".join(part for part in parts if part)] = value
    return renamed


def brought(kind: str, model: torch.nn.Module) -> dict:
    """The content of a file as trainers leave it."""
    state = dict(model.state_dict())
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 64)}
    match kind:
        case "MAE":
            state.pop("head.weight"), state.pop("head.bias")
            return {"model": state | decoder, "epoch": 1600}
        case "SERE":
            heads = {"module.projector.0.weight": torch.zeros(4, 64)}
            return {"state_dict": {f"module.backbone.{name}": value for name, value in state.items()} | heads}
        case "DINO":
            return {
                "teacher": {f"backbone.{name}": value for name, value in state.items()}
                | {"head.mlp.0.bias": state["norm.bias"]}
            }
        case _:
            return {"model": facebook_names(state)}


@pytest.mark.parametrize("kind", ["MAE", "SERE", "DINO", "ConvNeXt"])
def test_checkpoints_of_others_are_understood(kind: str) -> None:
    architecture = CONVNEXT if kind == "ConvNeXt" else VIT
    theirs = timm.create_model(architecture.name, num_classes=10)
    ours = Backbone(architecture)
    load_backbone(state_dict_in(brought(kind, theirs), "file"), ours)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name.removeprefix("trunk.").replace("norm_head", "head.norm")])


@pytest.mark.parametrize(
    "architecture, head, norm, classifier",
    [
        (VIT, SegmentationHead(norm=True, std=2e-5), "fc_norm", "head"),
        (CONVNEXT, WITH_NORM, "seg_norm", "seg_head.fc"),
        (resnet_tiny(widths=(4, 6, 8, 12)), SegmentationHead(upsampling=2), None, "head"),
    ],
    ids=["vit", "convnext", "resnet"],
)
def test_published_fine_tuned_networks_load_by_name(architecture, head, norm, classifier) -> None:
    torch.manual_seed(0)
    source = SegmentationModel(architecture, num_categories=5, head=head).eval()
    own_norm = f"{source.starts_anew or 'last_norm'}."
    theirs = {}
    for name, value in source.state_dict().items():
        their_name = name.replace("last_layer", classifier)
        if norm and name.startswith(own_norm):
            their_name = name.replace(own_norm, f"{norm}.")
        theirs[their_name.removeprefix("trunk.")] = value + 0.01
    target = SegmentationModel(architecture, num_categories=5, head=head)
    load_segmentation(theirs, target)
    for name, value in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], value + 0.01 if value.is_floating_point() else value)
    with pytest.raises(UserError, match="tell 5 categories apart, the data has 7"):
        load_segmentation(theirs, SegmentationModel(architecture, num_categories=7, head=head))
    with pytest.raises(UserError, match="choose the recipe"):
        load_segmentation(theirs, SegmentationModel(resnet18(), num_categories=5))
