"""What colour augmentation may do to crops, and the parameters each of them draws."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from luss_ray.core.errors import UserError

MEAN = (0.485, 0.456, 0.406)
STD_PRETRAIN = (0.228, 0.224, 0.225)
STD = (0.229, 0.224, 0.225)
COLOUR_DRAWS = 9
"""Uniform numbers a crop takes: jitter or not, order, four strengths, grey or not, blur or not, blur radius."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""The numbers of the operations in `ColourParams.order`."""
GREY_WEIGHTS = (0.2989, 0.587, 0.114)
"""Shares of red, green and blue in a grey, as torchvision's."""
BLUR_REACH = 3.0
"""A blur's kernel is cut at so many standard deviations."""

_ORDERS = torch.cartesian_prod(*[torch.arange(4)] * 4)
_ORDERS = _ORDERS[(_ORDERS.sort(dim=1).values == torch.arange(4)).all(dim=1)]


@dataclass(frozen=True, kw_only=True)
class ColourSpec:
    """Strengths of the colour augmentation. Source: Gao et al., arXiv 2106.03149, and SwAV's settings before it."""

    brightness: float = 0.8
    """Factors are uniform in [max(0, 1 - strength), 1 + strength]."""
    contrast: float = 0.8
    """As brightness; towards the crop's mean grey."""
    saturation: float = 0.8
    """As brightness; towards each pixel's grey."""
    hue: float = 0.2
    """Shifts are uniform in [-hue, hue], shares of the colour circle, at most 0.5."""
    jitter_p: float = 0.8
    """Probability that the four above are applied, in a random order."""
    grey_p: float = 0.2
    """Probability that the crop becomes grey."""
    blur_p: float = 0.5
    """Probability of a Gaussian blur."""
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    """The blur's standard deviation is uniform between these, pixels of the crop."""
    mean: tuple[float, float, float] = MEAN
    """Subtracted from each channel in [0, 1] at last."""
    std: tuple[float, float, float] = STD_PRETRAIN
    """Each channel is divided by it; the published pre-training has 0.228 first, the other stages 0.229."""

    def __post_init__(self) -> None:
        if min(self.brightness, self.contrast, self.saturation) < 0 or not 0 <= self.hue <= 0.5:
            raise UserError(f"colours: strengths must not be negative and hue at most 0.5: {self}")
        if not all(0 <= p <= 1 for p in (self.jitter_p, self.grey_p, self.blur_p)):
            raise UserError(f"colours: probabilities must lie in 0..1: {self}")
        if not 0 < self.blur_sigma_px[0] <= self.blur_sigma_px[1]:
            raise UserError(f"colours: blur_sigma_px must be 0 < smallest <= largest, not {self.blur_sigma_px}")

    @property
    def changes(self) -> bool:
        """Whether colours are ever changed, besides being normalised."""
        return any((self.jitter_p, self.grey_p, self.blur_p))


@dataclass(frozen=True, kw_only=True)
class ColourParams:
    """What happens to each of n crops, on the host."""

    brightness: Float[Tensor, " n"]
    """Factor, 1 = as it is."""
    contrast: Float[Tensor, " n"]
    """Factor, 1 = as it is."""
    saturation: Float[Tensor, " n"]
    """Factor, 1 = as it is."""
    hue: Float[Tensor, " n"]
    """Shift, 0 = as it is."""
    order: Int[Tensor, "n 4"]
    """The order of the four: 0 brightness, 1 contrast, 2 saturation, 3 hue."""
    grey: Bool[Tensor, " n"]
    """Whether the crop becomes grey."""
    sigma_px: Float[Tensor, " n"]
    """Standard deviation of the blur, 0 = none."""

    def __getitem__(self, chosen: slice) -> "ColourParams":
        return ColourParams(**{item.name: getattr(self, item.name)[chosen] for item in fields(self)})


def draw_colour(draws: Float[np.ndarray, "n draws"], spec: ColourSpec) -> ColourParams:
    """Return the parameters of n crops.

    Args:
        draws: uniform numbers in [0, 1), `COLOUR_DRAWS` a crop, of this (seed, epoch, sample).
        spec: their ranges.
    """
    u_jitter, u_order, *u_strengths, u_grey, u_blur, u_sigma = torch.from_numpy(np.asarray(draws, np.float64)).T
    jitter = u_jitter < spec.jitter_p
    strengths = (spec.brightness, spec.contrast, spec.saturation)
    factors = [
        torch.where(jitter, torch.lerp(torch.full_like(u, max(0.0, 1 - s)), torch.full_like(u, 1 + s), u), 1.0).float()
        for u, s in zip(u_strengths[:3], strengths, strict=True)
    ]
    low, high = spec.blur_sigma_px
    return ColourParams(
        brightness=factors[0],
        contrast=factors[1],
        saturation=factors[2],
        hue=torch.where(jitter, spec.hue * (2 * u_strengths[3] - 1), 0.0).float(),
        order=_ORDERS[(u_order * len(_ORDERS)).long()],
        grey=u_grey < spec.grey_p,
        sigma_px=torch.where(u_blur < spec.blur_p, low + (high - low) * u_sigma, 0.0).float(),
    )
