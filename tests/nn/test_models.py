import copy

import pytest
import torch

from luss_ray.nn.heads import upsample
from luss_ray.nn.models import PixelAttentionModel, PretrainModel, SegmentationModel, describe
from luss_ray.nn.resnet import resnet_tiny

NET = resnet_tiny(widths=(4, 6, 8, 12))
HEADS = {"hidden": 10, "num_prototypes": 7, "embedding_dim": 5}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pretrain():
    torch.manual_seed(0)
    return PretrainModel(NET, **HEADS, shallow_stages=(1, 3))


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return PixelAttentionModel(NET, **HEADS)


@pytest.mark.parametrize("num_local", [0, 1, 6])
def test_pretraining_output_shapes(pretrain, num_local):
    n = 3
    crops = [drawn(2 * n, 3, 32, 32)] + ([drawn(num_local * n, 3, 16, 16)] if num_local else [])
    out = pretrain(crops, torch.zeros(2, n, 7, 7, 2))
    assert out.embeddings.shape == (2 + num_local, n, 5)
    assert out.scores.shape == (2 + num_local, n, 7)
    assert [scores.shape for scores in out.shallow_scores] == [(2, n, 7)] * 2
    assert out.projections.shape == out.predictions.shape == (2, n, 5, 7, 7)
    torch.testing.assert_close(out.embeddings.norm(dim=2), torch.ones(2 + num_local, n))


def test_rows_are_crop_major(pretrain):
    pretrain.eval()
    images = drawn(4, 3, 32, 32)
    with torch.no_grad():
        both = pretrain([images], None).embeddings
        swapped = pretrain([images[[2, 3, 0, 1]]], None).embeddings
    torch.testing.assert_close(both.flip(0), swapped)


def test_shallow_scores_leave_the_prototypes_alone(pretrain):
    out = pretrain([drawn(4, 3, 32, 32)], None)
    torch.stack(out.shallow_scores).square().sum().backward()
    assert pretrain.prototypes.weight.grad is None
    assert pretrain.conv1.weight.grad is not None
    assert out.predictions is None


def test_prototypes_are_normalised_in_place_and_frozen_by_dropping_the_gradient(pretrain):
    prototypes = pretrain.prototypes
    prototypes.normalise_()
    torch.testing.assert_close(prototypes.weight.norm(dim=1).detach(), torch.ones(7))
    prototypes(drawn(3, 5)).sum().backward()
    assert prototypes.weight.grad is not None
    prototypes.freeze_gradient()
    assert prototypes.weight.grad is None


def test_every_parameter_learns_in_pretraining(pretrain):
    out = pretrain([drawn(6, 3, 32, 32), drawn(6, 3, 16, 16)], drawn(2, 3, 7, 7, 2).clamp(-1, 1))
    used = [out.scores, *out.shallow_scores, out.predictions]
    sum(value.square().mean() for value in used).backward()
    assert [name for name, p in pretrain.named_parameters() if p.grad is None] == []


def test_only_attention_and_prototypes_learn_but_statistics_move(attention):
    attention.train()
    before = copy.deepcopy(attention.state_dict())
    _, scores = attention([drawn(4, 3, 32, 32)])
    scores.square().sum().backward()
    trained = {name for name, p in attention.named_parameters() if p.grad is not None}
    assert trained == {n for n, _ in attention.named_parameters() if n.startswith(("fbg.", "prototypes."))}
    assert not torch.equal(attention.state_dict()["bn1.running_mean"], before["bn1.running_mean"])


def test_attention_is_a_gate_at_four_times_the_resolution(attention):
    attention.eval()
    images = drawn(2, 3, 32, 48)
    with torch.no_grad():
        features, gate = attention.attend(images)
        described = describe(features, gate)
        torch.testing.assert_close(features, upsample(attention.stages(images)[3]))
    assert features.shape == gate.shape == (2, 48, 16, 24)
    assert gate.min() > 0 and gate.max() < 1
    torch.testing.assert_close(described.norm(dim=1), torch.ones(2))


def test_segmentation_logits_are_at_the_backbones_stride():
    model = SegmentationModel(NET, num_categories=9).eval()
    assert model(torch.zeros(2, 3, 40, 24)).shape == (2, 10, 5, 3)


def test_autocast_keeps_embeddings_and_scores_in_float32(pretrain, attention):
    crops = [drawn(4, 3, 32, 32)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = pretrain(crops, torch.zeros(2, 2, 7, 7, 2))
        embeddings, scores = attention(crops)
        features, gate = attention.attend(crops[0])
    float32 = [out.embeddings, out.scores, *out.shallow_scores, out.predictions, embeddings, scores, features, gate]
    assert {value.dtype for value in float32} == {torch.float32}
    out.scores.sum().backward()
    assert pretrain.conv1.weight.grad.dtype == torch.float32


def test_channels_last_changes_only_the_rounding(pretrain):
    pretrain.eval()
    images = drawn(4, 3, 32, 32)
    with torch.no_grad():
        expected = pretrain([images], None).scores
        pretrain.to(memory_format=torch.channels_last)
        found = pretrain([images.to(memory_format=torch.channels_last)], None).scores
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_without_attention_every_pixel_counts_alike():
    model = PixelAttentionModel(NET, **HEADS, attentive=False).eval()
    assert not any(name.startswith("fbg") for name in model.state_dict())
    features, attention = model.attend(drawn(2, 3, 32, 48))
    assert torch.equal(attention, torch.ones_like(features))
    pooled = features.mean(dim=(2, 3))
    torch.testing.assert_close(describe(features, attention), pooled / pooled.norm(dim=1, keepdim=True))
