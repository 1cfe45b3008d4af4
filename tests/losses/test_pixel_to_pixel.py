import pytest
import torch

from luss_ray.losses.pixel_to_pixel import pixel_to_pixel_loss


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_aligned_crops_have_loss_minus_one():
    targets = drawn(2, 3, 8, 4, 4)
    assert pixel_to_pixel_loss(5 * targets.flip(0), targets).item() == pytest.approx(-1, abs=1e-5)
    assert pixel_to_pixel_loss(-targets.flip(0), targets).item() == pytest.approx(1, abs=1e-5)


def test_no_gradient_reaches_the_projections():
    predictions, projections = drawn(2, 3, 8, 4, 4).requires_grad_(), drawn(2, 3, 8, 4, 4, seed=1).requires_grad_()
    pixel_to_pixel_loss(predictions, projections).backward()
    assert predictions.grad is not None and projections.grad is None


def test_pairs_without_overlap_count_as_zero():
    predictions, projections = drawn(2, 2, 8, 4, 4), drawn(2, 2, 8, 4, 4, seed=1)
    projections[:, 1] = 0
    expected = pixel_to_pixel_loss(predictions[:, :1], projections[:, :1]) / 2
    torch.testing.assert_close(pixel_to_pixel_loss(predictions, projections), expected)
