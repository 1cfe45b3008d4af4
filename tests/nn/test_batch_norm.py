"""One process; several are in test_world_size.py."""

import copy

import torch
from torch import nn

from luss_ray.nn.batch_norm import SyncBatchNorm, convert
from luss_ray.nn.models import PretrainModel
from luss_ray.nn.resnet import resnet_tiny


def model():
    torch.manual_seed(0)
    return PretrainModel(resnet_tiny(widths=(4, 4, 4, 4)), hidden=6, num_prototypes=5, embedding_dim=4)


def test_conversion_replaces_every_batch_norm_and_keeps_the_state():
    plain = model()
    converted = convert(copy.deepcopy(plain))
    kinds = {type(child) for child in converted.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {SyncBatchNorm}
    assert list(converted.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in converted.named_parameters()] == [n for n, _ in plain.named_parameters()]


def test_conversion_shares_parameters_with_an_optimiser_made_before():
    norm = nn.BatchNorm2d(3)
    converted = convert(norm)
    assert converted.weight is norm.weight and converted.running_mean is norm.running_mean


def test_conversion_keeps_the_mode():
    assert not convert(nn.BatchNorm1d(3).eval()).training


def test_one_process_equals_torch_bit_for_bit():
    plain = model()
    converted = convert(copy.deepcopy(plain))
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(plain([images], None).scores, converted([images], None).scores)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, converted.state_dict()[name]), name
