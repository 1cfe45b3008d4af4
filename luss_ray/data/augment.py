"""Colour augmentation and normalisation of batches of crops, on the training device, with parameters for each sample.

Nothing here waits for a GPU: parameters are drawn and sorted on the host, so every size is known beforehand.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from luss_ray.core.errors import UserError

MEAN = (0.485, 0.456, 0.406)
STD_PRETRAIN = (0.228, 0.224, 0.225)
STD = (0.229, 0.224, 0.225)
COLOUR_DRAWS = 9
"""Uniform numbers a crop takes: jitter or not, order, four strengths, grey or not, blur or not, blur radius."""

_GREY = (0.2989, 0.587, 0.114)
_ORDERS = torch.cartesian_prod(*[torch.arange(4)] * 4)
_ORDERS = _ORDERS[(_ORDERS.sort(dim=1).values == torch.arange(4)).all(dim=1)]
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
_BLUR_REACH = 3.0
_CHUNK_FLOATS = 1 << 17


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


def augment(crops: UInt8[Tensor, "n h w 3"], params: ColourParams, spec: ColourSpec) -> Float[Tensor, "n 3 h w"]:
    """Return the crops jittered, made grey, blurred (each as its parameters say) and normalised.

    In memory they stand pixel by pixel, which is the order convolutions want (`torch.channels_last`).

    Args:
        crops: on the training device.
        params: of the same n crops.
        spec: for its mean and std.

    Source: torchvision's ColorJitter, RandomGrayscale and Pillow's GaussianBlur. Numbers stay floats between the
    operations, where the published code rounds to 8 bits after each; the blur is a true Gaussian cut at three
    standard deviations, where Pillow's is three box blurs of the same standard deviation.
    """
    shape = (len(crops), 3, *crops.shape[1:3])
    out = torch.empty(shape, device=crops.device, memory_format=torch.channels_last)
    for chosen in _chunks(out):
        pixels, part = _unit_floats(crops[chosen]), params[chosen]
        pixels = _jitter(pixels, part)
        _make_grey(pixels, part)
        _blur(pixels, part)
        _interleave(_standardise(pixels, spec.mean, spec.std), out[chosen])
    return out


def normalise(
    crops: UInt8[Tensor, "n h w 3"],
    mean: tuple[float, float, float] = MEAN,
    std: tuple[float, float, float] = STD,
) -> Float[Tensor, "n 3 h w"]:
    """Return 8-bit pixels as floats in [0, 1], less mean, divided by std, on the device where they are."""
    return _standardise(_unit_floats(crops), mean, std)


def _chunks(batch: Tensor) -> Iterator[slice]:
    """Return slices of the batch that fit a CPU's cache; a GPU takes the whole at once."""
    per_sample = math.prod(batch.shape[1:])
    step = max(1, _CHUNK_FLOATS // per_sample if batch.device.type == "cpu" else len(batch))
    for start in range(0, len(batch), step):
        yield slice(start, start + step)


def _unit_floats(crops: Tensor) -> Tensor:
    return crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)


def _interleave(planes: Tensor, out: Tensor) -> None:
    """Write images that stand in memory channel by channel into `out`, where they stand pixel by pixel."""
    if planes.device.type != "cpu":
        out.copy_(planes)
        return
    for image, pixels in zip(planes.numpy(), out.permute(0, 2, 3, 1).numpy(), strict=True):
        cv2.merge(list(image), pixels)  # four times as fast as torch's copy


def _standardise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    scale = _to(torch.tensor(std).reciprocal(), pixels).view(3, 1, 1)
    shift = _to(torch.tensor(mean) / torch.tensor(std), pixels).view(3, 1, 1)
    return pixels.mul_(scale).sub_(shift)


def _to(host: Tensor, like: Tensor) -> Tensor:
    return host.to(like.device, non_blocking=True)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return _to(values, like).view(-1, 1, 1, 1)


def _where(chosen: Tensor, like: Tensor) -> Tensor:
    return _to(torch.nonzero(chosen).flatten(), like)


def _jitter(pixels: Tensor, params: ColourParams) -> Tensor:
    """Return the batch after its four operations, each sample's in its own order.

    Brightness, contrast and saturation are one formula, clip(a x + b grey(x) + c mean(grey(x))), so all samples whose
    turn is one of them go together; those whose turn is hue pass unchanged and are turned apart.
    """
    factors = torch.stack([params.brightness, params.contrast, params.saturation, torch.ones_like(params.hue)])
    for turn in params.order.T:
        factor = factors.gather(0, turn[None])[0]
        if (factor != 1).any():
            pixels = _blend(pixels, factor, turn)
        turned = (turn == _HUE) & (params.hue != 0)
        if turned.all():
            pixels = _turn_hue(pixels, params.hue)
        elif turned.any():
            index = _where(turned, pixels)
            pixels[index] = _turn_hue(pixels[index], params.hue[turned])
    return pixels


def _blend(pixels: Tensor, factor: Tensor, turn: Tensor) -> Tensor:
    rest = 1 - factor
    to_grey, to_mean = rest * (turn == _SATURATION), rest * (turn == _CONTRAST)
    base = pixels.new_zeros(())
    if to_grey.any() or to_mean.any():
        grey = _grey(pixels)
        base = _per_sample(to_mean, pixels) * grey.mean(dim=(2, 3), keepdim=True)
        if to_grey.any():
            base = torch.addcmul(base, grey, _per_sample(to_grey, pixels))
    return torch.addcmul(base, pixels, _per_sample(factor, pixels)).clamp_(0, 1)


def _grey(pixels: Tensor) -> Tensor:
    red, green, blue = pixels.split(1, dim=1)
    return (red * _GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])


def _turn_hue(pixels: Tensor, shift: Float[Tensor, " n"]) -> Tensor:
    """Return the pixels with their hue turned; largest and smallest channel keep their values, only places change.

    The choice between a pixel's three formulas is an interpolation with weights 0 and 1: on a CPU `torch.where`
    takes several times as long.
    """
    red, green, blue = pixels.split(1, dim=1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    not_green, not_red = (high - green).ne_(0), (high - red).ne_(0)
    rise = torch.lerp(torch.add(blue - red, chroma, alpha=2), torch.add(red - green, chroma, alpha=4), not_green)
    rise = torch.lerp(green - blue, rise, not_red)
    sector = rise.div_(chroma.clamp_min(1e-12)).add_(_per_sample(6 * shift, pixels))
    sector.sub_((sector * (1 / 6)).floor_(), alpha=6)
    shares = torch.empty_like(pixels)
    for channel, (centre, sign, offset) in enumerate(((3, 1, -1), (2, -1, 2), (4, -1, 2))):
        torch.add(offset, (sector - centre).abs_()[:, 0], alpha=sign, out=shares[:, channel])
    return torch.addcmul(low, shares.clamp_(0, 1), chroma)


def _make_grey(pixels: Tensor, params: ColourParams) -> None:
    if params.grey.any():
        index = _where(params.grey, pixels)
        pixels[index] = _grey(pixels[index]).expand(-1, 3, -1, -1)


def _blur(pixels: Tensor, params: ColourParams) -> None:
    """Blur in place the samples that ask for it."""
    blurred = params.sigma_px > 0
    if not blurred.any():
        return
    if pixels.device.type == "cpu":
        for index in torch.nonzero(blurred).flatten().tolist():
            _blur_on_cpu(pixels[index], float(params.sigma_px[index]))
    else:
        index = _where(blurred, pixels)
        pixels[index] = gaussian_blur(pixels[index], params.sigma_px[blurred])


def _blur_on_cpu(image: Float[Tensor, "c h w"], sigma_px: float) -> None:
    """Blur one image in place, as `gaussian_blur` does and up to twice as fast on a CPU."""
    size = 2 * min(math.ceil(_BLUR_REACH * sigma_px), *(side - 1 for side in image.shape[1:])) + 1
    for channel in image.numpy():
        cv2.GaussianBlur(channel, (size, size), sigma_px, dst=channel, borderType=cv2.BORDER_REFLECT_101)


def gaussian_blur(pixels: Float[Tensor, "n c h w"], sigma_px: Float[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Return the images blurred, each with its own standard deviation; beyond the border they are mirrored.

    Args:
        pixels: images of any size; a kernel never reaches further than its image.
        sigma_px: standard deviations, above 0, on the host; each kernel is cut at three of them.
    """
    num, channels, height, width = pixels.shape
    limit = min(height, width) - 1
    reaches = torch.ceil(_BLUR_REACH * sigma_px).clamp_max(limit)
    reach = int(reaches.max())
    distances = torch.arange(-reach, reach + 1).abs()
    kernels = torch.exp(-((distances / sigma_px[:, None]) ** 2) / 2) * (distances <= reaches[:, None])
    kernels = _to(kernels / kernels.sum(dim=1, keepdim=True), pixels).repeat_interleave(channels, dim=0)[:, None]
    padded = F.pad(pixels, (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    across = F.conv2d(padded, kernels[:, :, None, :], groups=num * channels)
    return F.conv2d(across, kernels[:, :, :, None], groups=num * channels).view_as(pixels)
