import pytest
import torch

from luss_ray.losses.deep_to_shallow import deep_to_shallow_loss
from luss_ray.losses.sinkhorn import codes
from luss_ray.losses.swav import swap_loss, weighted_mean


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_swap_loss(scores, targets, temperature):
    """Return the loss as the paper's sums say it, pair by pair."""
    terms = [
        -(targets[i] * torch.log_softmax(scores[v] / temperature, dim=1)).sum(1).mean()
        for i in range(len(targets))
        for v in range(len(scores))
        if v != i
    ]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("num_crops", [2, 3, 8])
def test_swap_loss_is_the_mean_over_pairs_of_crops(num_crops):
    scores = drawn(num_crops, 5, 7)
    targets = codes(scores[:2])
    torch.testing.assert_close(swap_loss(scores, targets), plain_swap_loss(scores, targets, 0.1))


def test_the_mean_over_uneven_parts_is_that_of_the_batch():
    scores = drawn(4, 7, 6)
    targets = codes(scores[:2])
    parts = [slice(0, 5), slice(5, 7)]
    weighted = sum(swap_loss(scores[:, part], targets[:, part]) * (part.stop - part.start) / 7 for part in parts)
    torch.testing.assert_close(weighted, swap_loss(scores, targets))


def test_half_precision_scores_give_a_float32_loss():
    scores = drawn(2, 5, 7).bfloat16().requires_grad_()
    loss = swap_loss(scores, codes(scores))
    loss.backward()
    assert loss.dtype == torch.float32
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_a_crop_is_not_asked_to_predict_its_own_code():
    scores = drawn(2, 3, 4).requires_grad_()
    targets = torch.zeros(2, 3, 4)
    targets[0, :, 0] = 1  # only crop 0's code counts, so only crop 1 learns
    swap_loss(scores, targets).backward()
    assert scores.grad is not None
    assert not scores.grad[0].any() and scores.grad[1].any()


def test_deep_to_shallow_crosses_the_two_crops():
    shallow, targets = drawn(2, 5, 7), codes(drawn(2, 5, 7, seed=1))
    torch.testing.assert_close(deep_to_shallow_loss(shallow, targets), plain_swap_loss(shallow, targets, 0.1))


def test_weighted_mean_divides_by_all_weights():
    losses = torch.tensor([1.0, 2.0, 4.0])
    assert weighted_mean(losses[0], list(losses[1:]), [1.0, 2.0, 1.0]).item() == pytest.approx((1 + 4 + 4) / 4)
    assert weighted_mean(losses[0], [], [3.0]).item() == 1.0
    with pytest.raises(ValueError, match="longer"):
        weighted_mean(losses[0], list(losses[1:]), [1.0, 1.0])
