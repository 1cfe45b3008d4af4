import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from luss_ray.data.augment import normalise
from luss_ray.nn.outlines import follow_image

SIDE = 48


def scene(side: int = SIDE, noise: float = 4.0) -> tuple[Tensor, Tensor]:
    """A green disc on purple, normalised (1, 3, side, side), and where it is (1, 1, side, side)."""
    y, x = np.mgrid[:side, :side] / side
    disc = (y - 0.45) ** 2 + (x - 0.55) ** 2 < 0.27**2
    pixels = np.where(disc[..., None], (40, 160, 60), (120, 50, 130))
    pixels = pixels + np.random.default_rng(0).normal(0, noise, pixels.shape)
    normalised = normalise(torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))[None])
    return normalised, torch.from_numpy(disc)[None, None].float()


def coarse(mask: Tensor) -> Tensor:
    """What a feature map of 6 x 6 pixels knows of a mask, at the mask's resolution."""
    return F.interpolate(F.interpolate(mask, (6, 6), mode="area"), mask.shape[-2:], mode="bilinear")


def iou(first: Tensor, second: Tensor) -> float:
    a, b = first > 0.5, second > 0.5
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("side", [SIDE, 200])  # the larger one has its coefficients from fewer pixels
def test_outlines_are_those_of_the_image(side: int) -> None:
    image, disc = scene(side)
    before = coarse(disc)
    assert iou(before, disc) < 0.93
    assert iou(follow_image(before, image, side / 7), disc) > 0.97


def test_it_is_the_guided_filter() -> None:
    """Each window's own ridge regression of the map on the three colours, then the mean over windows."""
    image, disc = scene(20)
    values = coarse(disc)
    radius, eps = 3, 5e-4
    guide = F.pad(image, (radius,) * 4, mode="replicate")[0].double().numpy()
    padded = F.pad(values, (radius,) * 4, mode="replicate")[0, 0].double().numpy()
    slopes, offsets = np.empty((3, 20, 20)), np.empty((20, 20))
    for y, x in np.ndindex(20, 20):
        window = np.s_[..., y : y + 2 * radius + 1, x : x + 2 * radius + 1]
        colours, target = guide[window].reshape(3, -1), padded[window].reshape(-1)
        centred = colours - colours.mean(axis=1, keepdims=True)
        covariance = centred @ centred.T / target.size + eps * np.eye(3)
        slopes[:, y, x] = np.linalg.solve(covariance, centred @ (target - target.mean()) / target.size)
        offsets[y, x] = target.mean() - slopes[:, y, x] @ colours.mean(axis=1)
    models = F.pad(torch.from_numpy(np.concatenate([slopes, offsets[None]])), (radius,) * 4, mode="replicate")
    mean = F.avg_pool2d(models, 2 * radius + 1, stride=1).numpy()
    expected = (mean[:3] * image[0].numpy()).sum(axis=0) + mean[3]
    np.testing.assert_allclose(follow_image(values, image, 3.2)[0, 0].numpy(), expected, rtol=0, atol=1e-3)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.floats(0.1, 30), st.sampled_from([0.0, 0.1, 2.0]))
def test_what_is_the_same_everywhere_stays_so(
    height: int, width: int, channels: int, radius: float, noise: float
) -> None:
    maps = torch.linspace(-1, 2, channels)[None, :, None, None].expand(2, channels, height, width)
    images = noise * torch.randn(2, 3, height, width)
    torch.testing.assert_close(follow_image(maps, images, radius), maps.contiguous(), rtol=0, atol=1e-4)
