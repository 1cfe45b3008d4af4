import math

import pytest
import torch
from torch import nn

from luss_ray.config.recipe import LayerRates, Optimisation, Optimiser
from luss_ray.core.errors import UserError
from luss_ray.nn.models import SegmentationModel
from luss_ray.nn.resnet import resnet50
from luss_ray.nn.rf_next import RFMode, RFNextArchitecture, rf_convolutions
from luss_ray.nn.timm_architecture import TimmArchitecture
from luss_ray.train.optimiser import RATE, layer_numbers, make_optimiser

ARCHITECTURES = {
    "resnet": resnet50(),
    "vit": TimmArchitecture("vit_tiny_patch16_224"),
    "convnext": TimmArchitecture("convnext_tiny"),
}


def network_of(name: str) -> nn.Module:
    with torch.device("meta"):
        return SegmentationModel(ARCHITECTURES[name], num_categories=3)


@pytest.mark.parametrize(
    "name, layers",
    [
        (
            "resnet",
            {"conv1.weight": 0, "bn1.bias": 0, "layer1.0.conv1.weight": 1, "layer2.0.downsample.0.weight": 4}
            | {"layer4.2.bn3.weight": 16, "last_layer.bias": 17},
        ),
        (
            "vit",
            {"trunk.pos_embed": 0, "trunk.cls_token": 0, "trunk.patch_embed.proj.weight": 0}
            | {"trunk.blocks.0.norm1.weight": 1, "trunk.blocks.11.mlp.fc2.bias": 12}
            | {"trunk.norm.weight": 13, "last_layer.weight": 13},
        ),
        (
            "convnext",
            {"trunk.stem.0.weight": 0, "trunk.stem.1.bias": 0, "trunk.stages.0.blocks.0.conv_dw.weight": 1}
            | {"trunk.stages.0.blocks.2.gamma": 3, "trunk.stages.1.downsample.0.weight": 4}
            | {"trunk.stages.1.blocks.0.conv_dw.bias": 5, "trunk.stages.3.downsample.1.bias": 18}
            | {"trunk.stages.3.blocks.2.mlp.fc1.weight": 21, "last_layer.weight": 22},
        ),
    ],
)
def test_layers_are_numbered_from_the_image_on(name: str, layers: dict[str, int]) -> None:
    numbers = layer_numbers(name for name, _ in network_of(name).named_parameters())
    assert {name: numbers[name] for name in layers} == layers
    assert sorted(set(numbers.values())) == list(range(max(layers.values()) + 1))


def groups_of(network: nn.Module, rates: LayerRates) -> dict[str, tuple[float, float]]:
    """Rate and weight decay of each parameter by name."""
    settings = Optimisation(epochs=1, lr=0.1, optimiser=Optimiser.ADAMW, weight_decay=0.05, layers=rates)
    optimiser, names = make_optimiser(network, settings), {id(p): name for name, p in network.named_parameters()}
    return {
        names[id(parameter)]: (group[RATE], group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }


def test_rates_fall_towards_the_image_and_vectors_do_not_decay() -> None:
    found = groups_of(network_of("vit"), LayerRates(decay=0.5))
    assert found["trunk.pos_embed"] == (0.5**13, 0.05)
    assert found["trunk.blocks.11.mlp.fc1.weight"] == (0.5, 0.05)
    assert found["trunk.blocks.11.mlp.fc1.bias"] == (0.5, 0.0)
    assert found["trunk.norm.weight"] == (1.0, 0.0) and found["last_layer.weight"] == (1.0, 0.05)


def test_receptive_fields_have_rates_of_their_own() -> None:
    model = SegmentationModel(RFNextArchitecture("test_convnext", mode=RFMode.MULTIPLE), num_categories=3)
    first, *_, last = rf_convolutions(model)
    last.sample_weights.data[1] = 5.0  # pyright: ignore[reportOptionalMemberAccess]
    last.search()
    found = groups_of(model, LayerRates(decay=0.5, rf_decay=0.9, rf_multiplier=10.0))
    names = {id(p): name for name, p in model.named_parameters()}
    depth = round(math.log(found["trunk.stem.0.weight"][0], 0.5))
    assert found[names[id(first.weight)]] == (0.5 ** (depth - 1), 0.05), "its dilation has not changed"
    assert found[names[id(first.sample_weights)]] == (pytest.approx(10 * 0.9 ** (depth - 1)), 0.0)
    assert found[names[id(last.weight)]] == (pytest.approx(9.0), 0.05)
    assert found[names[id(last.bias)]] == (pytest.approx(9.0), 0.0)


def test_rates_of_layers_ask_for_adamw() -> None:
    with pytest.raises(UserError, match="layers"):
        Optimisation(epochs=1, layers=LayerRates(decay=0.5))
    with pytest.raises(UserError, match=r"layers\.decay"):
        LayerRates(decay=1.5)


def test_warm_up_in_steps_and_epochs_adds_up() -> None:
    assert Optimisation(epochs=1, warmup_steps=3, warmup_epochs=0.5).num_warmup_steps(10.4) == 8
