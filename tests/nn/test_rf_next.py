"""The modes of RF-ConvNeXt one after another, on a small ConvNeXt."""

import re

import pytest
import torch

from luss_ray.core.errors import UserError
from luss_ray.nn.backbone import Backbone
from luss_ray.nn.checkpoint import load_backbone, load_segmentation
from luss_ray.nn.heads import SegmentationHead
from luss_ray.nn.models import SegmentationModel
from luss_ray.nn.rf_next import RFMode, RFNextArchitecture, rf_convolutions
from luss_ray.nn.timm_architecture import TimmArchitecture

NAME = "test_convnext"


def begun(mode: RFMode, state: dict[str, torch.Tensor]) -> Backbone:
    """The backbone of a mode, with the weights that it starts from."""
    architecture = RFNextArchitecture(NAME, mode=mode)
    backbone = Backbone(architecture).eval()
    load_backbone(architecture.begin(state), backbone)
    return backbone


def searched(state: dict[str, torch.Tensor]) -> Backbone:
    """After a search in which every other convolution grew, and the branches of the others favour the first."""
    backbone = begun(RFMode.SEARCH, state)
    for number, convolution in enumerate(rf_convolutions(backbone)):
        assert convolution.sample_weights is not None
        with torch.no_grad():
            convolution.sample_weights[number % 2] = 5.0
        convolution.search()
        with torch.no_grad():
            convolution.sample_weights.copy_(torch.tensor([3.0, 1.0, 3.0]))
    return backbone


def original_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The entries as the authors of ConvNeXt and of ImageNetSegModel name them, with the search's counters."""
    changes = [(r"^trunk\.", ""), (r"^stem\.", "downsample_layers.0."), (r"\.blocks\.", ".")]
    changes += [(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."), ("mlp.fc", "pwconv"), ("conv_dw", "dwconv")]
    changes += [(r"^last_norm\.", "seg_norm."), (r"^last_layer\.", "seg_head.fc.")]
    renamed = {}
    for name, value in state.items():
        for old, new in changes:
            name = re.sub(old, new, name)  # noqa: PLW2901
        renamed[name] = value
    return renamed | {name.replace(".rates", ".counter"): torch.zeros(1) for name in renamed if name.endswith(".rates")}


@pytest.fixture
def plain() -> Backbone:
    torch.manual_seed(0)
    return Backbone(TimmArchitecture(NAME)).eval()


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96)


def test_modes_follow_one_another(plain: Backbone, pixels: torch.Tensor) -> None:
    search = searched(plain.state_dict())
    found = [convolution.dilations for convolution in rf_convolutions(search)]
    assert [1, 2] in found and [1, 2, 3] in found
    single = begun(RFMode.SINGLE, search.state_dict())
    expected = [[len(branches) - 1] for branches in found]
    assert [convolution.dilations for convolution in rf_convolutions(single)] == expected
    assert not any("sample_weights" in name for name in single.state_dict())
    multiple = begun(RFMode.MULTIPLE, search.state_dict())
    assert [convolution.dilations for convolution in rf_convolutions(multiple)] == found
    for convolution in rf_convolutions(multiple):
        assert convolution.sample_weights is not None
        torch.testing.assert_close(convolution.sample_weights, torch.full((3,), 0.01))
        with torch.no_grad():
            convolution.sample_weights.uniform_(-1.0, 1.0)
    merged = begun(RFMode.MERGE, multiple.state_dict())
    for ours, theirs in zip(merged.stages(pixels), multiple.stages(pixels), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert {c.kernel_size[0] for c in rf_convolutions(merged)} == {13, 19}


def test_a_merged_backbone_trains_the_kernels_that_grew(plain: Backbone) -> None:
    architecture = RFNextArchitecture(NAME, mode=RFMode.MERGE)
    merged = begun(RFMode.MERGE, searched(plain.state_dict()).state_dict())
    architecture.freeze(merged)
    trained = {name for name, weight in merged.named_parameters() if weight.requires_grad}
    assert trained and all(name.endswith(("conv_dw.weight", "conv_dw.bias")) for name in trained)
    wide = [convolution for convolution in rf_convolutions(merged) if convolution.kernel_size[0] == 19]
    assert len(trained) == 2 * len(wide) and len(wide) < len(rf_convolutions(merged))


def test_own_weights_load_again(plain: Backbone, pixels: torch.Tensor) -> None:
    for mode in RFMode:
        backbone = begun(mode, searched(plain.state_dict()).state_dict())
        again = Backbone(RFNextArchitecture(NAME, mode=mode)).eval()
        load_backbone(backbone.state_dict(), again)
        torch.testing.assert_close(again.stages(pixels)[3], backbone.stages(pixels)[3])


def test_published_names(plain: Backbone, pixels: torch.Tensor) -> None:
    """A checkpoint of the published search: no prefix, a head of its own, counters of the search."""
    search = searched(plain.state_dict())
    theirs = {name.removeprefix("trunk."): value for name, value in search.state_dict().items()}
    theirs |= {f"{name.removesuffix('rates')}counter": torch.zeros(1) for name in theirs if name.endswith(".rates")}
    theirs |= {"seg_norm.weight": torch.ones(64), "seg_head.fc.weight": torch.zeros(48, 64, 1, 1)}
    ours, expected = begun(RFMode.SINGLE, theirs), begun(RFMode.SINGLE, search.state_dict())
    torch.testing.assert_close(ours.stages(pixels)[3], expected.stages(pixels)[3])


@pytest.mark.parametrize("mode", [RFMode.SINGLE, RFMode.MULTIPLE, RFMode.MERGE])
def test_names_of_the_original_convnext(mode: RFMode, plain: Backbone, pixels: torch.Tensor) -> None:
    """Searched or branched weights as the authors' code names them, to go on from or to be scored."""
    state = searched(plain.state_dict()).state_dict()
    theirs = original_names(state)
    assert "stages.1.0.dwconv.sample_weights" in theirs and "stages.1.0.dwconv.num_rates" in theirs
    assert not any("conv_dw" in name or "trunk" in name for name in theirs)
    torch.testing.assert_close(begun(mode, theirs).stages(pixels)[3], begun(mode, state).stages(pixels)[3])


def test_fine_tuned_networks_under_the_original_names(plain: Backbone, pixels: torch.Tensor) -> None:
    head, architecture = SegmentationHead(norm=True, patch=2, std=0.02), RFNextArchitecture(NAME)
    source, target = (SegmentationModel(architecture, num_categories=3, head=head).eval() for _ in range(2))
    load_backbone(searched(plain.state_dict()).state_dict(), source)
    load_segmentation(original_names(source.state_dict()), target)
    torch.testing.assert_close(target(pixels), source(pixels))
    assert [c.dilations for c in rf_convolutions(target)] == [c.dilations for c in rf_convolutions(source)]


def test_what_can_not_be_begun_is_refused(plain: Backbone) -> None:
    with pytest.raises(UserError, match="no branches to merge"):
        begun(RFMode.MERGE, plain.state_dict())
    with pytest.raises(UserError, match="take a ConvNeXt"):
        Backbone(RFNextArchitecture("test_vit"))
    one_sided = searched(plain.state_dict()).state_dict()
    name = next(name for name in one_sided if name.endswith("rates"))
    one_sided[name] = one_sided[name] * torch.tensor([1, 2], dtype=torch.int32)
    with pytest.raises(UserError, match="height and width"):
        begun(RFMode.SINGLE, one_sided)
    del one_sided[name.replace("rates", "num_rates") if "num_rates" not in name else name]
    with pytest.raises(UserError, match="give the whole file"):
        begun(RFMode.SINGLE, one_sided)
