"""Maps that follow the outlines of the images they belong to."""

from jaxtyping import Float
from torch import Tensor

_VARIANCE = 5e-4
"""Of a normalised channel: where an image varies less it has no outlines."""
_COARSE_PX = 5
"""Radius at which coefficients are found, where it is larger at the maps' own resolution."""


def follow_image(
    maps: Float[Tensor, "B C H W"], images: Float[Tensor, "B 3 H W"], radius: float
) -> Float[Tensor, "B C H W"]:
    """Return maps that are smooth where their image is and change where it changes: the guided filter.

    Around each pixel a map is taken for a linear function of the three colours, the one that fits it best.

    Args:
        maps: one number a pixel and channel.
        images: normalised.
        radius: of the neighbourhood, in pixels.

    Source: He, Sun and Tang, "Guided Image Filtering", ECCV 2010; for large radii coefficients are found at a lower
    resolution, as in He and Sun, "Fast Guided Filter", arXiv 1505.00996.
    """
    from kornia.filters import guided_blur  # noqa: PLC0415  (it takes most of a second)

    step = max(1, round(radius / _COARSE_PX))
    kernel = 2 * step * max(1, round(radius / step)) + 1  # odd at the lower resolution, too
    # Means pass through it unchanged; without them covariances lose fewer digits.
    means = maps.mean(dim=(2, 3), keepdim=True)
    guides = images - images.mean(dim=(2, 3), keepdim=True)
    return means + guided_blur(guides, maps - means, kernel, _VARIANCE, "replicate", subsample=step, separable=True)
