import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy.stats import kstest
from torchvision.transforms.v2 import functional as TF

from luss_ray.core.errors import UserError
from luss_ray.data.augment import augment, augment_batched, gaussian_blur, normalise
from luss_ray.data.augment_cpu import augment_on_cpu
from luss_ray.data.colour import COLOUR_DRAWS, MEAN, STD, STD_PRETRAIN, ColourParams, ColourSpec, draw_colour

WAYS = pytest.mark.parametrize("way", [augment_batched, augment_on_cpu])
PLAIN = ColourSpec(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def make_crops(num: int, height: int = 24, width: int = 20) -> torch.Tensor:
    crops = np.random.default_rng(0).integers(0, 256, (num, height, width, 3), np.uint8)
    crops[:, :4] = crops[:, :4] // 128 * 255
    crops[:, 4:6] = crops[:, 4:6, :, :1]
    return torch.from_numpy(crops)


def draws(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((num, COLOUR_DRAWS))


def one_by_one(crops: torch.Tensor, params: ColourParams) -> torch.Tensor:
    """Return torchvision's answer to the same parameters, in floats."""
    done = []
    for index in range(len(crops)):
        crop = crops[index].permute(2, 0, 1) / 255
        operations = (
            (TF.adjust_brightness, params.brightness),
            (TF.adjust_contrast, params.contrast),
            (TF.adjust_saturation, params.saturation),
            (TF.adjust_hue, params.hue),
        )
        for number in params.order[index].tolist():
            operation, values = operations[number]
            crop = operation(crop, float(values[index]))
        if params.grey[index]:
            crop = TF.rgb_to_grayscale(crop, 3)
        sigma = float(params.sigma_px[index])
        if sigma > 0:
            crop = TF.gaussian_blur(crop, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma])
        done.append(crop)
    return torch.stack(done)


@pytest.mark.parametrize(
    "spec",
    [
        PLAIN,
        replace(PLAIN, brightness=0.3, contrast=0.3, saturation=0.2, hue=0.05, blur_p=0.1),
        replace(PLAIN, hue=0.5, jitter_p=1.0, blur_p=0.0, grey_p=0.0),
        replace(PLAIN, hue=0.0, contrast=0.0, saturation=0.0),
        replace(PLAIN, brightness=0.0, contrast=0.0, saturation=0.0, jitter_p=1.0),
        replace(PLAIN, jitter_p=0.0, blur_p=1.0),
        replace(PLAIN, jitter_p=0.0, blur_p=0.0, grey_p=1.0),
    ],
    ids=["published", "mild", "strong hue", "brightness", "hue", "blur", "grey"],
)
@WAYS
def test_every_sample_is_torchvisions_on_its_own_parameters(way, spec):
    crops, params = make_crops(200), draw_colour(draws(200), spec)
    torch.testing.assert_close(way(crops, params, spec), one_by_one(crops, params), atol=2e-5, rtol=0)


@WAYS
def test_a_samples_result_does_not_depend_on_its_batch(way):
    spec, crops = ColourSpec(), make_crops(300)
    params = draw_colour(draws(300), spec)
    whole = way(crops, params, spec)
    for part in (slice(0, 1), slice(7, 20), slice(123, 300)):
        torch.testing.assert_close(way(crops[part], params[part], spec), whole[part], atol=1e-6, rtol=0)


@WAYS
def test_nothing_to_do_is_plain_normalisation(way):
    spec = ColourSpec(jitter_p=0.0, grey_p=0.0, blur_p=0.0)
    crops = make_crops(5)
    before = crops.clone()
    expected = TF.normalize(crops.permute(0, 3, 1, 2).float() / 255, list(MEAN), list(STD_PRETRAIN))
    torch.testing.assert_close(way(crops, draw_colour(draws(5), spec), spec), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(normalise(crops, std=STD_PRETRAIN), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(normalise(crops, std=STD), expected, atol=1e-5)
    assert torch.equal(crops, before)


@WAYS
def test_an_empty_batch_stays_empty(way):
    spec = ColourSpec()
    assert way(make_crops(0), draw_colour(draws(0), spec), spec).shape == (0, 3, 24, 20)


def test_parameters_follow_their_distributions():
    spec = ColourSpec(brightness=0.4, contrast=1.5, jitter_p=0.8, grey_p=0.2, blur_p=0.5)
    params = draw_colour(draws(20_000), spec)
    jittered = params.hue != 0
    assert jittered.float().mean() == pytest.approx(0.8, abs=0.02)
    assert params.grey.float().mean() == pytest.approx(0.2, abs=0.02)
    assert (params.sigma_px > 0).float().mean() == pytest.approx(0.5, abs=0.02)
    assert (params.brightness[~jittered] == 1).all() and (params.saturation[~jittered] == 1).all()
    for values, low, high in (
        (params.brightness[jittered], 0.6, 1.4),
        (params.contrast[jittered], 0.0, 2.5),
        (params.saturation[jittered], 0.2, 1.8),
        (params.hue[jittered], -0.2, 0.2),
        (params.sigma_px[params.sigma_px > 0], 0.1, 2.0),
    ):
        assert kstest(values.numpy(), "uniform", args=(low, high - low)).pvalue > 1e-3
    orders, counts = np.unique(params.order.numpy(), axis=0, return_counts=True)
    assert len(orders) == 24 and counts.min() > 20_000 / 24 * 0.8
    assert (np.sort(orders, axis=1) == np.arange(4)).all()


@WAYS
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 50))
def test_crops_smaller_than_the_kernel(way, height, width, seed):
    spec = replace(PLAIN, blur_p=1.0)
    crops = make_crops(3, height, width)
    out = way(crops, draw_colour(draws(3, seed), spec), spec)
    assert out.shape == (3, 3, height, width) and out.isfinite().all() and out.min() >= 0 and out.max() <= 1 + 1e-5


@pytest.mark.parametrize("height, width", [(1, 1), (3, 9), (7, 7), (40, 30)])
def test_blur_of_a_gpu_is_the_cpus(height, width):
    crops, sigma = make_crops(16, height, width), torch.linspace(0.1, 2.0, 16)
    spec = replace(PLAIN, jitter_p=0.0, grey_p=0.0, blur_p=1.0)
    params = replace(draw_colour(draws(16), spec), sigma_px=sigma)
    grouped = gaussian_blur(crops.permute(0, 3, 1, 2) / 255, sigma)
    torch.testing.assert_close(augment(crops, params, spec), grouped, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_close_to_pillows(sigma):
    crop = Image.fromarray(make_crops(1, 8, 8)[0].numpy()).resize((64, 64), Image.Resampling.BICUBIC)
    reference = np.asarray(crop.filter(ImageFilter.GaussianBlur(sigma))) / 255
    pixels = torch.from_numpy(np.asarray(crop) / 255).permute(2, 0, 1)[None].float()
    ours = gaussian_blur(pixels, torch.tensor([sigma]))[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - reference)[8:-8, 8:-8].mean() < 0.006


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_cpus_result():
    spec, crops = ColourSpec(), make_crops(64)
    params = draw_colour(draws(64), spec)
    on_gpu = augment(crops.cuda(), params, spec).cpu()
    torch.testing.assert_close(on_gpu, augment(crops, params, spec), atol=1e-4, rtol=0)


@pytest.mark.parametrize("change", [{"brightness": -1.0}, {"hue": 0.6}, {"grey_p": 1.2}, {"blur_sigma_px": (0.0, 2.0)}])
def test_impossible_strengths_are_user_errors(change):
    with pytest.raises(UserError, match="colours"):
        ColourSpec(**change)
