from dataclasses import replace

import pytest
import torch
import torchvision

from luss_ray.nn.backbone import Backbone
from luss_ray.nn.resnet import ARCHITECTURES, ResNetArchitecture, resnet18, resnet50, resnet_tiny


@pytest.mark.parametrize(
    ("architecture", "reference"),
    [
        (resnet18(), lambda: torchvision.models.resnet18(weights=None)),
        (resnet50(), lambda: torchvision.models.resnet50(weights=None)),
        (
            resnet50(d16=True),
            lambda: torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True]),
        ),
    ],
)
def test_equals_torchvision_by_name_and_by_value(architecture, reference):
    reference, own = reference().eval(), Backbone(architecture).eval()
    state = {name: value for name, value in reference.state_dict().items() if not name.startswith("fc.")}
    own.load_state_dict(state, strict=True)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        c4 = own.stages(images)[3]
        logits = reference.fc(c4.mean(dim=(2, 3)))
        torch.testing.assert_close(logits, reference(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_channels_and_stride_are_those_of_the_features(name):
    net = Backbone(ARCHITECTURES[name]).eval()
    with torch.no_grad():
        stages = net.stages(torch.zeros(1, 3, 64, 64))
    assert tuple(stage.shape[1] for stage in stages) == net.channels
    assert stages[3].shape[-1] == 64 // net.stride


def test_the_tiny_net_has_stride_eight_and_free_widths():
    net = Backbone(resnet_tiny(widths=(4, 6, 8, 10)))
    assert net.stride == 8 and net.channels == (16, 24, 32, 40)
    assert sum(p.numel() for p in Backbone(resnet_tiny()).parameters()) < 1_000_000


@pytest.mark.parametrize("centred", [True, False])
def test_centred_strides_keep_maps_in_place(centred):
    """With mirrored kernels, the map of a mirrored image is the mirrored map: only where nothing moves it aside."""
    shape = replace(resnet_tiny(widths=(4, 4, 4, 4)), centred=centred)
    net = Backbone(shape).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.add_(module.weight.flip(3))
        image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        plain, mirrored = net.stages(image)[3], net.stages(image.flip(3))[3].flip(3)
    assert plain.shape[-1] == 8
    assert torch.allclose(plain, mirrored, rtol=1e-4, atol=1e-4 * float(plain.max())) == centred


def test_full_resolution_stem():
    shape = ResNetArchitecture("basic", (1, 1, 1, 1), widths=(4, 4, 4, 4), stem="full", stem_width=6)
    assert shape.stride == 8
    assert Backbone(shape).stages(torch.zeros(2, 3, 16, 16))[0].shape == (2, 4, 16, 16)


def test_start_is_kaiming_fan_out_and_repeats_with_the_seed():
    torch.manual_seed(3)
    first = Backbone(resnet18())
    torch.manual_seed(3)
    second = Backbone(resnet18())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    weight = first.layer4[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)
