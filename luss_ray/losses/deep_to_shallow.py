"""Deep-to-shallow supervision: a shallow stage predicts the codes of the last one."""

from jaxtyping import Float
from torch import Tensor

from luss_ray.losses.swav import swap_loss


def deep_to_shallow_loss(
    shallow_scores: Float[Tensor, "2 n K"], codes: Float[Tensor, "2 n K"], *, temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Return the cross-entropy between each global crop's code and one stage's prediction from the other crop.

    Args:
        shallow_scores: one shallow stage's scores of the two global crops.
        codes: of the two global crops, from the last stage.
        temperature: of the softmax over prototypes.

    Returns:
        The mean over local samples; weight it as `swap_loss`.

    Source: arXiv 2106.03149, section 4 (deep-to-shallow supervision).
    """
    assert len(shallow_scores) == len(codes) == 2, "one code and one prediction per global crop"
    return swap_loss(shallow_scores, codes, temperature=temperature)
