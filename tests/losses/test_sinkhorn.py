import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luss_ray.losses.sinkhorn import codes, sinkhorn


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(num_samples=st.integers(1, 40), num_prototypes=st.integers(1, 30), seed=st.integers(0, 99))
def test_samples_sum_to_one_and_prototypes_become_balanced(num_samples, num_prototypes, seed):
    scores = drawn(num_samples, num_prototypes, seed=seed).clamp(-1, 1)
    found = sinkhorn(scores, epsilon=0.5, num_iterations=50)
    torch.testing.assert_close(found.sum(1), torch.ones(num_samples))
    share = torch.full((num_prototypes,), num_samples / num_prototypes)
    torch.testing.assert_close(found.sum(0), share, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_of_any_size_stay_finite(dtype):
    scores = (drawn(16, 12) * 50).to(dtype)
    found = sinkhorn(scores)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(1), torch.ones(16))
    torch.testing.assert_close(found, sinkhorn(scores.float()))


def test_a_constant_offset_changes_nothing():
    scores = drawn(8, 5)
    torch.testing.assert_close(sinkhorn(scores + 1000.0), sinkhorn(scores), rtol=5e-2, atol=1e-3)


def test_permuting_the_batch_permutes_the_codes():
    scores, order = drawn(9, 6), torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sinkhorn(scores[order]), sinkhorn(scores)[order])


def test_the_input_is_left_alone_and_has_no_gradient():
    scores = drawn(4, 3).requires_grad_()
    before = scores.detach().clone()
    assert not sinkhorn(scores).requires_grad
    assert torch.equal(scores, before)


def test_codes_assign_crops_independently():
    scores = drawn(2, 7, 5)
    torch.testing.assert_close(codes(scores), torch.stack([sinkhorn(scores[0]), sinkhorn(scores[1])]))


def test_codes_balance_the_batch_together_with_the_queue():
    scores, queue_scores = drawn(2, 4, 5), drawn(2, 11, 5, seed=1)
    joined = sinkhorn(torch.cat([queue_scores, scores], dim=1))[:, -4:]
    found = codes(scores, queue_scores)
    torch.testing.assert_close(found, joined)
    assert not torch.allclose(found, codes(scores), atol=1e-3)
