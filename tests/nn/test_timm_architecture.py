"""Backbones of timm, on its own small models with random weights."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from luss_ray.core.errors import UserError
from luss_ray.nn.backbone import Backbone
from luss_ray.nn.batch_norm import SyncBatchNorm, convert
from luss_ray.nn.checkpoint import load_backbone
from luss_ray.nn.models import PixelAttentionModel, PretrainModel, SegmentationModel
from luss_ray.nn.rf_next import RFNextArchitecture
from luss_ray.nn.timm_architecture import TimmArchitecture

VIT, CONVNEXT = "test_vit", "test_convnext"
NAMES = [VIT, CONVNEXT, "test_vit2", "test_resnet", "test_efficientnet", "test_convnext2"]
IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])


def images(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_maps_cover_images_of_any_size(name: str) -> None:
    backbone = Backbone(TimmArchitecture(name))
    for height, width in [(96, 96), (100, 75), (64, 150)]:
        maps = backbone.stages(images(height, width))
        assert [features.shape[1] for features in maps] == list(backbone.channels)
        expected = (max(1, round(height / backbone.stride)), max(1, round(width / backbone.stride)))
        assert maps[3].shape[2:] == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_learns(name: str) -> None:
    """Data parallel training waits for the gradient of each of them."""
    network = SegmentationModel(TimmArchitecture(name), num_categories=3)
    network(images(64, 64)).square().mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", [VIT, CONVNEXT])
def test_features_are_those_of_timm(name: str) -> None:
    """A file of timm's own names gives timm's own features, of pixels normalised as timm would."""
    theirs = timm.create_model(name, pretrained=False, num_classes=7).eval()
    ours = Backbone(TimmArchitecture(name)).eval()
    copied = load_backbone(theirs.state_dict(), ours)
    assert len(copied) == len(ours.state_dict())
    size = theirs.pretrained_cfg["input_size"][1:]
    pixels = torch.rand(2, 3, *size)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    own_mean, own_std = (torch.tensor(theirs.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = theirs.forward_features((pixels - own_mean) / own_std)
    if expected.dim() == 3:  # class token and register tokens first
        expected = expected[:, theirs.num_prefix_tokens :].transpose(1, 2).reshape(2, -1, size[0] // 16, size[1] // 16)
    found = ours.stages(((pixels - mean) / std).float())[3]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_stages_of_a_vit_are_a_quarter_of_its_blocks_apart() -> None:
    backbone = Backbone(TimmArchitecture("vit_tiny_patch16_224")).eval()
    trunk = backbone.get_submodule("trunk")
    outputs: list[torch.Tensor] = []
    for number in (2, 5, 8, 11):
        trunk.get_submodule(f"blocks.{number}").register_forward_hook(lambda *call: outputs.append(call[2]))
    maps = backbone.stages(images(32, 48))
    assert len(outputs) == 4
    for tokens, features in zip(outputs, maps, strict=True):
        expected = trunk.get_submodule("norm")(tokens)[:, 1:].transpose(1, 2).reshape(2, 192, 2, 3)
        torch.testing.assert_close(features, expected)


def test_positions_learnt_at_another_size_are_resized() -> None:
    other = timm.create_model(VIT, img_size=96, num_classes=0).state_dict()
    assert other["pos_embed"].shape != Backbone(TimmArchitecture(VIT)).state_dict()["trunk.pos_embed"].shape
    ours = Backbone(TimmArchitecture(VIT))
    load_backbone(other, ours)
    torch.testing.assert_close(ours.state_dict()["trunk.cls_token"], other["cls_token"])
    found, expected = ours.state_dict()["trunk.pos_embed"], other["pos_embed"]
    assert F.cosine_similarity(found.mean(dim=1), expected.mean(dim=1)).item() > 0.9


def test_weights_of_another_model_are_refused_and_say_so() -> None:
    with pytest.raises(UserError, match=r"lack \d+ of \d+ entries of the backbone \(timm:test_vit"):
        load_backbone(timm.create_model(CONVNEXT).state_dict(), Backbone(TimmArchitecture(VIT)))


@pytest.mark.parametrize("theirs", ["vit", "wider convnext", "resnet18"])
def test_weights_of_others_that_timm_can_not_read_are_refused_the_same(theirs: str) -> None:
    models = {"vit": VIT, "wider convnext": "test_convnext3", "resnet18": "resnet18"}
    state = timm.create_model(models[theirs]).state_dict()
    for old, new in {"head.norm.": "norm.", "head.fc.": "head.", "conv_dw": "dwconv"}.items():
        state = {name.replace(old, new): value for name, value in state.items()}
    said = r"(lack \d+ of \d+ entries of the backbone \(\S+:test_convnext.*choose the backbone|in the weights, .* give)"
    for architecture in (TimmArchitecture(CONVNEXT), RFNextArchitecture(CONVNEXT)):
        with pytest.raises(UserError, match=said):
            load_backbone(state, Backbone(architecture))
    with pytest.raises(UserError, match=said):
        load_backbone(RFNextArchitecture(CONVNEXT).begin(state), Backbone(RFNextArchitecture(CONVNEXT)))


def test_entries_beside_a_convnext_are_left_out() -> None:
    theirs = timm.create_model(CONVNEXT).state_dict()
    ours = Backbone(TimmArchitecture(CONVNEXT))
    beside = {"projector.0.weight": torch.zeros(2, 3), "mask_token": torch.zeros(1, 1, 4)}
    load_backbone({name.replace("head.norm.", "norm."): value for name, value in theirs.items()} | beside, ours)
    name = "stages.1.blocks.0.mlp.fc1.weight"
    assert torch.equal(ours.state_dict()[f"trunk.{name}"], theirs[name])


def test_a_norm_of_pooled_tokens_is_taken_as_the_last_norm() -> None:
    """MAE's fine-tuned files have `fc_norm` and no `norm`."""
    theirs = timm.create_model(VIT, num_classes=10, global_pool="avg").state_dict()
    theirs = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: v for name, v in theirs.items()}
    theirs = {name: torch.rand_like(value) for name, value in theirs.items()}
    assert "fc_norm.bias" in theirs and "norm.bias" not in theirs
    for network in (Backbone(TimmArchitecture(VIT)), SegmentationModel(TimmArchitecture(VIT), num_categories=3)):
        load_backbone(theirs, network)
        assert torch.equal(network.state_dict()["trunk.norm.bias"], theirs["fc_norm.bias"])
        assert torch.equal(network.state_dict()["trunk.blocks.0.norm1.bias"], theirs["blocks.0.norm1.bias"])
    both = theirs | {"norm.weight": torch.ones(64), "norm.bias": torch.zeros(64)}
    load_backbone(both, network)
    assert not network.state_dict()["trunk.norm.bias"].any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_vitt", "did you mean test_vit"),
        ("levit_128", "gives no maps of four stages"),
        ("beit_base_patch16_224", "takes images of one size only"),
    ],
)
def test_models_that_do_not_fit_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _ = TimmArchitecture(name).channels


def test_asking_for_facts_leaves_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    _ = TimmArchitecture("test_vit3").channels
    assert torch.rand(1) == expected


def test_batch_norms_that_activate_still_do_so_when_they_are_synchronised() -> None:
    torch.manual_seed(0)
    backbone = Backbone(TimmArchitecture("test_efficientnet")).train()
    expected = backbone.stages(images(64, 64))[3]
    names = sorted(backbone.state_dict())
    backbone = convert(backbone)
    assert isinstance(backbone, Backbone) and sorted(backbone.state_dict()) == names
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(norm, SyncBatchNorm) for norm in norms)
    torch.testing.assert_close(backbone.stages(images(64, 64))[3], expected)


@pytest.mark.parametrize("name", [VIT, CONVNEXT])
def test_pretraining_and_attention_take_it(name: str) -> None:
    sizes = {"hidden": 16, "num_prototypes": 8, "embedding_dim": 8}
    crops = [images(64, 64), images(32, 32)]
    network = PretrainModel(TimmArchitecture(name), **sizes, shallow_stages=(2, 3))
    output = network(crops, torch.zeros(2, 1, 3, 3, 2))
    assert output.predictions is not None and output.predictions.shape == (2, 1, 8, 3, 3)
    (output.scores.sum() + sum(s.sum() for s in output.shallow_scores) + output.predictions.sum()).backward()
    assert all(weight.grad is not None for weight in network.parameters())
    attention = PixelAttentionModel(TimmArchitecture(name), **sizes)
    load_backbone(network.state_dict(), attention)
    features, gate = attention.attend(images(64, 96))
    assert features.shape == gate.shape == (2, network.channels[3], *(4 * s // network.stride for s in (64, 96)))
