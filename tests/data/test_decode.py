import io

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from luss_ray.core.errors import BadSampleError
from luss_ray.data.decode import decode_image, image_size


def make_image(height: int = 48, width: int = 64) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)).copy()


def encode(image: Image.Image | np.ndarray, kind: str, **settings) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **settings)
    return stream.getvalue()


SOURCE = make_image()
FILES = {
    "jpeg": encode(SOURCE, "JPEG", quality=95),
    "progressive": encode(SOURCE, "JPEG", quality=95, progressive=True),
    "cmyk": encode(Image.fromarray(SOURCE).convert("CMYK"), "JPEG", quality=98),
    "png": encode(SOURCE, "PNG"),
    "palette": encode(Image.fromarray(SOURCE).quantize(256), "PNG"),
    "webp": encode(SOURCE, "WEBP", lossless=True),
    "gif": encode(Image.fromarray(SOURCE).quantize(256), "GIF"),
    "tiff": encode(SOURCE, "TIFF"),
    "bmp": encode(SOURCE, "BMP"),
}


@pytest.mark.parametrize("kind", FILES)
def test_kinds_of_files(kind):
    image = decode_image(FILES[kind])
    assert (
        image.dtype == np.uint8 and image.shape == SOURCE.shape and image.flags.c_contiguous and image.flags.writeable
    )
    assert image_size(FILES[kind]) == SOURCE.shape[:2]
    lossless = kind in ("png", "webp", "tiff", "bmp")
    difference = np.abs(image.astype(int) - SOURCE)
    assert difference.max() == 0 if lossless else difference.mean() < 8


def test_jpeg_is_what_pillow_shows():
    reference = np.asarray(Image.open(io.BytesIO(FILES["jpeg"]))).astype(int)
    assert np.abs(decode_image(FILES["jpeg"]) - reference).max() <= 1


def test_cmyk_jpeg_has_the_right_colours():
    flat = np.full((16, 16, 3), (200, 60, 20), np.uint8)
    cmyk = encode(Image.fromarray(flat).convert("CMYK"), "JPEG", quality=100)
    assert np.abs(decode_image(cmyk).astype(int) - flat).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_grey_images_become_rgb(kind):
    grey = SOURCE[..., 0]
    image = decode_image(encode(grey, kind))
    assert image.shape == (*grey.shape, 3)
    assert np.abs(image[..., 0].astype(int) - image[..., 2]).max() <= 1


def test_16_bit_channels_keep_their_high_byte():
    deep = np.random.default_rng(1).integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    grey = encode(Image.fromarray(deep[..., 0]), "PNG")
    np.testing.assert_array_equal(decode_image(grey)[..., 1], deep[..., 0] >> 8)
    colour = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_image(colour), deep >> 8)


def test_bilevel_images_are_black_and_white():
    assert set(np.unique(decode_image(encode(Image.fromarray(SOURCE).convert("1"), "PNG")))) == {0, 255}


def test_transparency_shows_white():
    rgba = np.dstack([SOURCE, np.zeros(SOURCE.shape[:2], np.uint8)])
    rgba[:, :32, 3] = 255
    for kind in ("PNG", "WEBP"):
        image = decode_image(encode(rgba, kind, lossless=True))
        np.testing.assert_array_equal(image[:, :32], SOURCE[:, :32])
        assert (image[:, 32:] == 255).all()
    grey = Image.fromarray(np.array([[[0, 128], [0, 0]]], np.uint8), "LA")
    assert decode_image(encode(grey, "PNG"))[0, :, 0].tolist() == [127, 255]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert decode_image(encode(palette, "PNG", transparency=0))[0].tolist() == [[255] * 3, [40, 50, 60]]


def test_orientation_is_left_as_stored():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encode(SOURCE, "JPEG", exif=exif)).shape == SOURCE.shape


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animations_give_their_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    image = decode_image(encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True))
    assert image[..., 0].min() > 250 and image[..., 2].max() < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_of_one_pixel(kind):
    assert decode_image(encode(np.full((1, 1, 3), 200, np.uint8), kind)).shape == (1, 1, 3)


def test_spare_bytes_before_the_end_do_no_harm():
    whole = FILES["jpeg"]
    np.testing.assert_array_equal(decode_image(whole[:-2] + b"\x00\x11\x22" * 20 + whole[-2:]), decode_image(whole))


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "bmp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_a_file_that_ends_early_is_a_bad_sample(kind, share):
    with pytest.raises(BadSampleError):
        decode_image(FILES[kind][: int(len(FILES[kind]) * share)])


def test_a_jpeg_that_lies_about_its_size_is_a_bad_sample():
    lie = bytearray(FILES["jpeg"])
    frame = lie.index(b"\xff\xc0")
    lie[frame + 5 : frame + 7] = (4800).to_bytes(2, "big")
    with pytest.raises(BadSampleError, match="premature end"):
        decode_image(bytes(lie))


@pytest.mark.parametrize("kind", ["jpeg", "cmyk", "png", "webp"])
def test_too_many_pixels_are_refused(kind):
    with pytest.raises(BadSampleError, match="64x48 pixels are more than 3000"):
        decode_image(FILES[kind], max_pixels=3000)


@pytest.mark.parametrize(
    "data", [b"", b"no image at all", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"RIFF\0\0\0\0WEBP"]
)
def test_other_things_are_bad_samples(data):
    with pytest.raises(BadSampleError):
        decode_image(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
    st.floats(0.5, 1),
)
def test_damage_gives_an_image_or_a_bad_sample_and_nothing_else(kind, flips, kept):
    data = bytearray(FILES[kind])
    for place, change in flips:
        data[int(place**3 * len(data))] ^= change
    damaged = bytes(data[: int(kept * len(data))])
    assert min(image_size(damaged)) >= 1
    try:
        image = decode_image(damaged, max_pixels=1 << 22)
    except BadSampleError as error:
        assert error.reason
    else:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
