"""Pixel-to-pixel alignment between two crops of one image."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def pixel_to_pixel_loss(
    predictions: Float[Tensor, "2 n D S S"], projections: Float[Tensor, "2 n D S S"]
) -> Float[Tensor, ""]:
    """Return minus the cosine similarity of each crop's predictions with the other crop's projections.

    Pairs without overlap have projections of zero and count as similarity 0, as in the published code.

    Args:
        predictions: p of the two global crops on the points they share.
        projections: z of the same; no gradient flows into them from here.

    Returns:
        The mean over points and local samples, in [-1, 1]; weight it as `swap_loss`.

    Source: arXiv 2106.03149, section 4 (pixel-to-pixel alignment).
    """
    targets = projections.detach().flip(0)
    return -F.cosine_similarity(predictions.float(), targets.float(), dim=2).mean()
