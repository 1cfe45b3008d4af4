"""Pictures show what the arrays hold."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from luss_ray.report.colours import rgb
from luss_ray.report.data import IGNORE, Example
from luss_ray.report.pictures import attention_picture, data_uri, fit, label_picture, shares, square

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_data_uri_holds_the_image() -> None:
    kind, text = data_uri(np.full((8, 9, 3), 77, np.uint8)).split(",")
    image = Image.open(BytesIO(base64.b64decode(text)))
    assert kind == "data:image/webp;base64" and image.size == (9, 8)
    assert np.abs(np.asarray(image.convert("RGB")).astype(int) - 77).max() < 4


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (1, 1), (1, 500), (700, 3)])
def test_fit_and_square_sizes(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    assert max(fit(image, 100).shape[:2]) == 100
    assert square(image, 50).shape == (50, 50, 3)


def test_labels_get_their_colour_and_other_is_grey() -> None:
    labels = np.zeros((40, 60), np.uint16)
    labels[10:30, 10:30] = 3
    labels[:, 45:] = IGNORE
    out = label_picture(PHOTO, labels, {3: "#d55e00"}, side_px=60).astype(int)
    assert (out[10, 10] == rgb("#d55e00")).all()
    inside = out[14:26, 14:26]
    assert (inside[..., 0] > inside[..., 2] + 60).all()
    assert np.ptp(out[:, 31:44], axis=-1).max() == 0
    assert set(np.unique(out[:, 47:])) == {60, 205}


def test_an_unknown_label_is_a_bug() -> None:
    with pytest.raises(KeyError):
        label_picture(PHOTO, np.full((40, 60), 5, np.uint16), {}, side_px=60)


def test_attention_has_a_white_line_at_the_threshold() -> None:
    attention = np.tile(np.linspace(0, 1, 60, dtype=np.float32), (40, 1))
    out = attention_picture(PHOTO, attention, (0.0, 1.0), threshold=0.5, side_px=60)
    assert (out == 255).all(axis=-1).any(axis=0).nonzero()[0].min() == 30
    plain = attention_picture(PHOTO, attention, (0.0, 1.0), threshold=None, side_px=60)
    assert not (plain == 255).all(axis=-1).any()
    assert plain[0, -1].sum() > plain[0, 0].sum()


def test_constant_attention_is_no_division_by_zero() -> None:
    assert attention_picture(PHOTO, np.full((40, 60), 0.3), (0.3, 0.3), threshold=0.3, side_px=20).shape == (13, 20, 3)


def test_shares_leave_ignored_pixels_out() -> None:
    labels = np.array([[1, 1, 2, IGNORE], [0, 0, 0, IGNORE]])
    assert shares(labels) == {0: 0.5, 1: 1 / 3, 2: 1 / 6}
    assert shares(np.full((2, 2), IGNORE)) == {}


def test_a_map_of_another_shape_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="truth has another shape"):
        Example(key="a", image=PHOTO, truth=np.zeros((4, 4), np.uint16))
