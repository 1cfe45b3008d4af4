"""Fine-tuning on pixel labels."""

import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor


def segmentation_loss(logits: Float[Tensor, "n K h w"], labels: Integer[Tensor, "n H W"]) -> Float[Tensor, ""]:
    """Return the cross-entropy at half the labels' resolution, mean over pixels and local samples.

    Args:
        logits: at the backbone's stride, resized bilinearly.
        labels: ids 0..K-1 of the crop, resized to the nearest; no id is ignored.

    Source: arXiv 2106.03149, section 4 (fine-tuning); the half resolution is the published code's.
    """
    size = (labels.shape[1] // 2, labels.shape[2] // 2)
    target = F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0].long()
    return F.cross_entropy(F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False), target)
