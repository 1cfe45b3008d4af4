import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from luss_ray.core.errors import BadSampleError
from luss_ray.imagenet_s import masks


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@given(arrays(np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 65535)))
def test_every_mask_comes_back(ids):
    data = masks.encode(ids)
    assert np.array_equal(masks.decode(data), ids)
    assert masks.decode(data).dtype == np.uint16
    assert masks.size(data) == ids.shape


def test_the_id_is_red_plus_256_green():
    pixels = np.array([[[1, 0, 7], [232, 3, 9], [0, 1, 255]]], np.uint8)
    assert masks.decode(png(pixels)).tolist() == [[1, masks.IGNORE, 256]]
    with Image.open(io.BytesIO(masks.encode(np.array([[masks.IGNORE, 3]], np.uint16)))) as image:
        assert image.mode == "RGB"
        assert np.asarray(image).tolist() == [[[232, 3, 0], [3, 0, 0]]]


def test_alpha_is_ignored_and_one_channel_holds_ids():
    assert masks.decode(png(np.array([[[5, 1, 0, 0]]], np.uint8))).tolist() == [[261]]
    assert masks.decode(png(np.array([[0, 7]], np.uint8))).tolist() == [[0, 7]]
    assert masks.decode(png(np.array([[0, 1000]], np.uint16))).tolist() == [[0, 1000]]


def test_masks_are_compact():
    ids = np.zeros((375, 500), np.uint16)
    ids[100:300, 200:400] = 42
    assert len(masks.encode(ids)) < 5000


@pytest.mark.parametrize("data", [b"", b"no image", masks.encode(np.zeros((50, 50), np.uint16))[:60]])
def test_damaged_masks_are_bad_samples(data):
    with pytest.raises(BadSampleError, match="unreadable mask"):
        masks.decode(data)


def test_other_kinds_than_png_are_bad_samples():
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "JPEG")
    with pytest.raises(BadSampleError, match="must be PNG"):
        masks.decode(out.getvalue())
    grey_alpha = io.BytesIO()
    Image.new("LA", (4, 4)).save(grey_alpha, "PNG")
    with pytest.raises(BadSampleError, match="can't hold category ids"):
        masks.decode(grey_alpha.getvalue())
