"""Fine-tuning on pixel labels."""

import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

_NO_ID = -100


def segmentation_loss(
    logits: Float[Tensor, "n K h w"],
    labels: Integer[Tensor, "n H W"],
    *,
    ignore: int | None = None,
    upsampling: int = 0,
) -> Float[Tensor, ""]:
    """Return the cross-entropy, mean over pixels and local samples.

    Args:
        logits: at the network's resolution.
        labels: ids 0..K-1 of the crop, resized to the nearest.
        ignore: id of pixels that are left out; None = there are none. Where all are left out the loss is 0.
        upsampling: at how many times the logits' resolution, resized bilinearly; 0 = at half of the labels'.

    Source: arXiv 2106.03149, section 4 (fine-tuning); the half resolution is the published code's, and twice the
    logits' resolution is that of ImageNetSegModel.
    """
    height, width = logits.shape[2] * upsampling, logits.shape[3] * upsampling
    size = (height, width) if upsampling else (labels.shape[1] // 2, labels.shape[2] // 2)
    target = F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0].long()
    resized = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    if ignore is None:
        return F.cross_entropy(resized, target)
    counted = (target != ignore).sum().clamp(min=1)
    return F.cross_entropy(resized, target.where(target != ignore, _NO_ID), reduction="sum") / counted
