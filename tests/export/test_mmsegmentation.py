"""The names that docs/models.md gives to entries in MMSegmentation, tried on what its wrapper makes with timm."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from fixtures_docs import BLOCK, ROOT
from torch import nn

from luss_ray.nn.heads import SegmentationHead
from luss_ray.nn.models import SegmentationModel
from luss_ray.nn.resnet import resnet18
from luss_ray.nn.timm_architecture import TimmArchitecture

PAGE = ROOT / "docs" / "models.md"
BACKBONE, TIMM, HEAD = "backbone.", "backbone.timm_model.", "decode_head.conv_seg."


def documented() -> Callable[..., str | None]:
    """The page's function."""
    (block,) = [
        block for language, block in BLOCK.findall(PAGE.read_text()) if language == "python" and "def " in block
    ]
    found: dict[str, Any] = {}
    exec(block, found)
    return found["in_mmsegmentation"]


def renamed(network: SegmentationModel, *, vit: bool, plain_head: bool) -> dict[str, torch.Tensor]:
    """A network's entries under the page's names, without those that have none."""
    names = {name: documented()(name, vit=vit, plain_head=plain_head) for name in network.state_dict()}
    return {names[name]: value for name, value in network.state_dict().items() if names[name]}  # pyright: ignore


def below(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Entries whose names begin so, without that."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet18", "timm:test_convnext", "timm:convnext_pico"])
def test_a_segmenter_with_a_plain_head_gives_the_same_logits_there(name: str) -> None:
    model = name.removeprefix("timm:")
    architecture = TimmArchitecture(model) if model != name else resnet18()
    torch.manual_seed(0)
    network = SegmentationModel(architecture, num_categories=3).eval()
    theirs = timm.create_model(model, features_only=True).eval()
    classifier = nn.Conv2d(network.channels[3], 4, 1)
    state = renamed(network, vit=False, plain_head=True)
    assert len(state) == len(network.state_dict())
    # MMSegmentation's own ResNet has the entries of torchvision's, which are those of timm's.
    theirs.load_state_dict(below(TIMM if model != name else BACKBONE, state))
    classifier.load_state_dict(below(HEAD, state))
    mean, std = (torch.tensor(theirs.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    images = torch.rand(2, 3, 64, 96)
    by_imagenet = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    with torch.no_grad():
        there = classifier(theirs((images - mean) / std)[-1])
        torch.testing.assert_close(network(by_imagenet), there, rtol=1e-3, atol=1e-4)


def test_a_vits_backbone_goes_there_without_norm_and_head() -> None:
    network = SegmentationModel(TimmArchitecture("test_vit"), num_categories=3)
    state = renamed(network, vit=True, plain_head=True)
    assert not below(HEAD, state)
    theirs = timm.create_model("test_vit", features_only=True, dynamic_img_size=True)
    theirs.load_state_dict(below(TIMM, state))
    assert len(network.state_dict()) - len(state) == 4, "the norm and the classifier, of two entries each"


def test_a_head_with_a_norm_or_a_patch_stays_here() -> None:
    head = SegmentationHead(norm=True, patch=4)
    network = SegmentationModel(TimmArchitecture("test_convnext"), num_categories=3, head=head)
    state = renamed(network, vit=False, plain_head=False)
    timm.create_model("test_convnext", features_only=True).load_state_dict(below(TIMM, state))
    assert not below(HEAD, state) and len(network.state_dict()) - len(state) == 4
