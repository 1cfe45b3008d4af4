"""Image-level losses: predict the code of one crop from another."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def swap_loss(
    scores: Float[Tensor, "V n K"], codes: Float[Tensor, "A n K"], *, temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Return the cross-entropy between each code and every other crop's prediction, mean over the n local samples.

    It is computed in float32 also under autocast, which would make its products bfloat16.

    As all losses here it is a mean over local samples: with uneven splits multiply by n * world / B before gradients
    are averaged over processes, which gives the gradient of the mean over the global batch.

    Args:
        scores: of all V crops, the assigning ones first.
        codes: of the A assigning crops.
        temperature: of the softmax over prototypes.

    Source: arXiv 2006.09882, equation 1.
    """
    with torch.autocast(scores.device.type, enabled=False):
        log_predictions = F.log_softmax(scores.float() / temperature, dim=-1)
        pairs = torch.einsum("ank,vnk->av", codes.float(), log_predictions)
    num_assigning, num_crops = pairs.shape
    others = ~torch.eye(num_assigning, num_crops, dtype=torch.bool, device=pairs.device)
    return -(pairs * others).sum() / (num_assigning * (num_crops - 1) * scores.shape[1])


def weighted_mean(
    image_loss: Float[Tensor, ""], shallow_losses: Sequence[Float[Tensor, ""]], weights: Sequence[float]
) -> Float[Tensor, ""]:
    """Return the mean of the image-level loss and the shallow stages' losses.

    Args:
        image_loss: of the last stage.
        shallow_losses: one per shallow stage.
        weights: of the image-level loss, then one per shallow stage.
    """
    total = weights[0] * image_loss
    for weight, loss in zip(weights[1:], shallow_losses, strict=True):
        total = total + weight * loss
    return total / sum(weights)
