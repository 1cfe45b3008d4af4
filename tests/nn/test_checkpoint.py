import pytest
import torch
import torchvision

from luss_ray.core.errors import UserError
from luss_ray.nn.checkpoint import load_backbone
from luss_ray.nn.models import PixelAttentionModel, PretrainModel, SegmentationModel
from luss_ray.nn.resnet import resnet18, resnet_tiny

NET = resnet_tiny(widths=(4, 6, 8, 12))
HEADS = {"hidden": 10, "num_prototypes": 7, "embedding_dim": 5}


def backbone(model):
    return {n: v for n, v in model.state_dict().items() if n.startswith(("conv1", "bn1", "layer"))}


def test_segmentation_takes_the_backbone_alone():
    source, target = PretrainModel(NET, **HEADS), SegmentationModel(NET, num_categories=3)
    head = target.last_layer.weight.clone()
    copied = load_backbone(source.state_dict(), target)
    assert copied == sorted(backbone(source))
    assert all(torch.equal(value, backbone(target)[name]) for name, value in backbone(source).items())
    assert torch.equal(target.last_layer.weight, head)


def test_attention_takes_projection_and_prototypes_too():
    source, target = PretrainModel(NET, **HEADS), PixelAttentionModel(NET, **HEADS)
    load_backbone(source.state_dict(), target)
    assert torch.equal(target.prototypes.weight, source.prototypes.weight)
    assert torch.equal(target.projection_head[0].weight, source.projection_head[0].weight)
    assert not target.projection_head[0].weight.requires_grad and target.prototypes.weight.requires_grad


def test_published_prefix_and_torchvision_weights():
    source = torchvision.models.resnet18(weights=None)
    target = PretrainModel(resnet18(), **HEADS)
    load_backbone({f"module.{name}": value for name, value in source.state_dict().items()}, target)
    assert torch.equal(target.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_says_what_does_not_fit():
    target = SegmentationModel(NET, num_categories=3)
    with pytest.raises(UserError, match="lack"):
        load_backbone({"conv1.weight": torch.zeros(4, 3, 3, 3)}, target)
    wider = PretrainModel(resnet_tiny(widths=(5, 6, 8, 12)), **HEADS)
    with pytest.raises(UserError, match=r"bn1.bias is \(5,\) in the weights, \(4,\) in the model"):
        load_backbone(wider.state_dict(), target)
