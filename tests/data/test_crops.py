import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.data.crops import (
    DRAWS_PER_CROP,
    CropSpec,
    centre_crop,
    crop_resize,
    draw_boxes,
    multi_crop,
    num_draws,
    paired_crop,
    resize_shorter,
)

GLOBAL = CropSpec(num=2, size_px=32, scale=(0.14, 1.0))
LOCAL = CropSpec(num=6, size_px=12, scale=(0.05, 0.14))


def make_image(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)).copy()


def draws(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((num, DRAWS_PER_CROP))


@pytest.mark.parametrize(
    "height, width, scale",
    [(375, 500, (0.14, 1.0)), (500, 375, (0.05, 0.14)), (40, 300, (0.5, 1.0)), (9, 7, (0.08, 1.0))],
)
def test_boxes_are_distributed_as_torchvisions(height, width, scale):
    torch.manual_seed(0)
    image, num = torch.empty(1, height, width), 3000
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(num)])
    ours = draw_boxes(height, width, CropSpec(num=1, size_px=8, scale=scale), draws(num))
    for column, other in zip(ours[:, [1, 0, 3, 2]].T, theirs.T, strict=True):
        assert ks_2samp(column, other).pvalue > 1e-3
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3
    assert ours[:, 4].mean() == pytest.approx(0.5, abs=0.04)


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.floats(0.01, 1),
    st.integers(0, 99),
    st.sampled_from([None, 0.0, 1 - 2**-53]),
)
def test_boxes_lie_in_the_image(height, width, smallest, seed, extreme):
    u = draws(4, seed) if extreme is None else np.full((4, DRAWS_PER_CROP), extreme)
    left, top, box_width, box_height, flip = draw_boxes(
        height, width, CropSpec(num=4, size_px=8, scale=(smallest, 1.0)), u
    ).T
    assert (left >= 0).all() and (top >= 0).all() and (box_width >= 1).all() and (box_height >= 1).all()
    assert (left + box_width <= width).all() and (top + box_height <= height).all()
    assert set(flip) <= {0, 1}


def test_a_box_that_never_fits_is_the_central_one():
    boxes = draw_boxes(10, 1000, CropSpec(num=3, size_px=8, scale=(1.0, 1.0)), draws(3))
    assert boxes[:, :4].tolist() == [[(1000 - 13) // 2, 0, 13, 10]] * 3


@pytest.mark.parametrize("box", [(20, 10, 200, 150, 0), (3, 5, 40, 30, 0), (20, 10, 200, 20, 1), (0, 0, 96, 96, 0)])
def test_resizing_is_pillows_antialiased_bilinear(box):
    image, size = make_image(180, 240), 96
    left, top, width, height, flip = box
    reference = TF.resized_crop(Image.fromarray(image), top, left, height, width, [size, size])
    reference = np.asarray(TF.hflip(reference) if flip else reference).astype(int)
    difference = np.abs(crop_resize(image, np.array(box), size) - reference)
    assert difference.max() <= 2 and difference.mean() < 0.2


def test_a_multi_crop_depends_on_its_draws_alone():
    image, specs = make_image(120, 160), [GLOBAL, LOCAL]
    u = draws(8).ravel()
    assert num_draws(specs) == u.size
    crops, geometry = multi_crop(image, specs, u)
    assert [crop.shape for crop in crops] == [(2, 32, 32, 3), (6, 12, 12, 3)]
    assert geometry.shape == (8, 5) and set(geometry[:, 4]) == {0, 1}
    again, _ = multi_crop(image, specs, u)
    for crop, other in zip(crops, again, strict=True):
        np.testing.assert_array_equal(crop, other)
    alone, own_geometry = multi_crop(image, [LOCAL], u[2 * DRAWS_PER_CROP :])
    np.testing.assert_array_equal(alone[0], crops[1])
    np.testing.assert_array_equal(own_geometry, geometry[2:])
    np.testing.assert_array_equal(crops[1][3], crop_resize(image, geometry[5], 12))


@pytest.mark.parametrize("height, width", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_images_of_a_pixel_are_cropped_too(height, width):
    crops, geometry = multi_crop(make_image(height, width), [GLOBAL, LOCAL], draws(8).ravel())
    assert crops[0].shape == (2, 32, 32, 3) and (geometry[:, 2:4] >= 1).all()
    assert resize_shorter(make_image(height, width), 16).min(initial=255) >= 0


@given(st.integers(0, 30), st.sampled_from([np.uint8, np.uint16, np.int64]))
def test_labels_stay_with_their_pixels(seed, dtype):
    label = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((20, 20))).astype(dtype)
    image = np.repeat((label * 20).astype(np.uint8)[:, :, None], 3, axis=2)
    spec = CropSpec(num=1, size_px=48, scale=(0.3, 1.0))
    crop, crop_label = paired_crop(image, lambda rows, columns: label[np.ix_(rows, columns)], spec, draws(1, seed)[0])
    assert crop_label.dtype == dtype and crop_label.shape == (48, 48)
    assert (np.abs(crop[..., 0].astype(int) - crop_label.astype(int) * 20) <= 1).mean() > 0.75
    box = draw_boxes(60, 80, spec, draws(1, seed))[0]
    window = Image.fromarray(label.astype(np.uint8)[box[1] :, box[0] :][: box[3], : box[2]])
    nearest = np.asarray(window.resize((48, 48), Image.Resampling.NEAREST))
    assert (crop_label == (nearest[:, ::-1] if box[4] else nearest)).mean() > 0.95


@pytest.mark.parametrize("height, width", [(375, 500), (500, 375), (300, 300), (256, 257), (100, 133)])
def test_shorter_side_and_centre_are_torchvisions(height, width):
    image = make_image(height, width)
    reference = np.asarray(TF.resize(Image.fromarray(image), 256)).astype(int)
    resized = resize_shorter(image, 256)
    assert np.abs(resized - reference).max() <= 2
    centre = np.asarray(TF.center_crop(Image.fromarray(resized), [224, 224]))
    np.testing.assert_array_equal(centre_crop(resized, 224), centre)


def test_an_endless_strip_is_refused():
    with pytest.raises(BadSampleError, match="would become"):
        resize_shorter(np.zeros((1, 3000, 3), np.uint8), 256)


@pytest.mark.parametrize(
    "change", [{"num": 0}, {"size_px": 0}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 2.0)}, {"ratio": (2.0, 1.0)}]
)
def test_impossible_crops_are_user_errors(change):
    with pytest.raises(UserError, match="crops"):
        CropSpec(**{"num": 1, "size_px": 8, "scale": (0.1, 1.0)} | change)
