"""Codes: soft assignments of samples to prototypes that use all prototypes equally."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "*crops B K"], *, epsilon: float = 0.05, num_iterations: int = 3
) -> Float[Tensor, "*crops B K"]:
    """Return codes in float32; every row sums to 1, columns have about equal sums.

    Works in the log domain, so no score over- or underflows, in half precision neither. Give it the rows of the whole
    global batch: then codes don't depend on how many processes share it.

    Args:
        scores: any floating type; leading dimensions (crops) are assigned independently.
        epsilon: temperature; smaller is closer to one-hot.
        num_iterations: alternations between prototypes (each 1/K in all) and samples (each 1/B in all).

    Source: Caron et al., arXiv 2006.09882, section 3.1.
    """
    logits = scores.float() / epsilon
    num_samples, num_prototypes = logits.shape[-2:]
    logits = logits - torch.logsumexp(logits, dim=(-2, -1), keepdim=True)
    for _ in range(num_iterations):
        logits -= torch.logsumexp(logits, dim=-2, keepdim=True) + math.log(num_prototypes)
        logits -= torch.logsumexp(logits, dim=-1, keepdim=True) + math.log(num_samples)
    return (logits + math.log(num_samples)).exp_()


def codes(
    scores: Float[Tensor, "A B K"],
    queue_scores: Float[Tensor, "A L K"] | None = None,
    *,
    epsilon: float = 0.05,
    num_iterations: int = 3,
) -> Float[Tensor, "A B K"]:
    """Return the codes of the whole global batch, balanced together with the queue's rows where there are any.

    Args:
        scores: of the A assigning crops, all samples of the global batch.
        queue_scores: of each crop's queue with today's prototypes; None until the queue is full.
        epsilon: see `sinkhorn`.
        num_iterations: see `sinkhorn`.
    """
    rows = scores.detach()
    if queue_scores is not None:
        rows = torch.cat([rows, queue_scores.detach()], dim=1)
    return sinkhorn(rows, epsilon=epsilon, num_iterations=num_iterations)[:, : scores.shape[1]]
