"""Colour augmentation and normalisation of batches of crops, on the training device, with parameters for each sample.

Here is the way of a GPU, which takes the whole batch through each operation; `augment_cpu` has that of a CPU. Nothing
waits for a GPU: parameters are drawn and sorted on the host, so every size is known beforehand.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from luss_ray.data.augment_cpu import augment_on_cpu
from luss_ray.data.colour import (
    BLUR_REACH,
    CONTRAST,
    GREY_WEIGHTS,
    HUE,
    MEAN,
    SATURATION,
    STD,
    ColourParams,
    ColourSpec,
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
    with torch.autocast(crops.device.type, enabled=False):  # colours are float32, in mixed precision too
        return (augment_on_cpu if crops.device.type == "cpu" else augment_batched)(crops, params, spec)


def augment_batched(
    crops: UInt8[Tensor, "n h w 3"], params: ColourParams, spec: ColourSpec
) -> Float[Tensor, "n 3 h w"]:
    """Do what `augment` says, the whole batch at a time, on any device."""
    planes = crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)
    pixels = _jitter(planes, params)
    _make_grey(pixels, params)
    _blur(pixels, params)
    return _standardise(pixels, spec.mean, spec.std).contiguous(memory_format=torch.channels_last)


def normalise(
    crops: UInt8[Tensor, "n h w 3"],
    mean: tuple[float, float, float] = MEAN,
    std: tuple[float, float, float] = STD,
) -> Float[Tensor, "n 3 h w"]:
    """Return 8-bit pixels as floats in [0, 1], less mean, divided by std, on the device where they are.

    In memory they stay pixel by pixel, as convolutions want them (`torch.channels_last`).
    """
    return _standardise(crops.permute(0, 3, 1, 2).float().mul_(1 / 255), mean, std)


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
        turned = (turn == HUE) & (params.hue != 0)
        if turned.all():
            pixels = _turn_hue(pixels, params.hue)
        elif turned.any():
            index = _where(turned, pixels)
            pixels[index] = _turn_hue(pixels[index], params.hue[turned])
    return pixels


def _blend(pixels: Tensor, factor: Tensor, turn: Tensor) -> Tensor:
    rest = 1 - factor
    to_grey, to_mean = rest * (turn == SATURATION), rest * (turn == CONTRAST)
    base = pixels.new_zeros(())
    if to_grey.any() or to_mean.any():
        grey = _grey(pixels)
        base = _per_sample(to_mean, pixels) * grey.mean(dim=(2, 3), keepdim=True)
        if to_grey.any():
            base = torch.addcmul(base, grey, _per_sample(to_grey, pixels))
    return torch.addcmul(base, pixels, _per_sample(factor, pixels)).clamp_(0, 1)


def _grey(pixels: Tensor) -> Tensor:
    red, green, blue = pixels.split(1, dim=1)
    return (red * GREY_WEIGHTS[0]).add_(green, alpha=GREY_WEIGHTS[1]).add_(blue, alpha=GREY_WEIGHTS[2])


def _turn_hue(pixels: Tensor, shift: Float[Tensor, " n"]) -> Tensor:
    """Return the pixels with their hue turned; largest and smallest channel keep their values, only places change."""
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
    if blurred.any():
        index = _where(blurred, pixels)
        pixels[index] = gaussian_blur(pixels[index], params.sigma_px[blurred])


def gaussian_blur(pixels: Float[Tensor, "n c h w"], sigma_px: Float[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Return the images blurred, each with its own standard deviation; beyond the border they are mirrored.

    Args:
        pixels: images of any size; a kernel never reaches further than its image.
        sigma_px: standard deviations, above 0, on the host; each kernel is cut at three of them.
    """
    num, channels, height, width = pixels.shape
    limit = min(height, width) - 1
    reaches = torch.ceil(BLUR_REACH * sigma_px).clamp_max(limit)
    reach = int(reaches.max())
    distances = torch.arange(-reach, reach + 1).abs()
    kernels = torch.exp(-((distances / sigma_px[:, None]) ** 2) / 2) * (distances <= reaches[:, None])
    kernels = _to(kernels / kernels.sum(dim=1, keepdim=True), pixels).repeat_interleave(channels, dim=0)[:, None]
    padded = F.pad(pixels, (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    across = F.conv2d(padded, kernels[:, :, None, :], groups=num * channels)
    return F.conv2d(across, kernels[:, :, :, None], groups=num * channels).view_as(pixels)
