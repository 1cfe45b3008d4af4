import io

import numpy as np
import pytest
from fixtures_shards import jpeg, mask_ids
from PIL import Image

from luss_ray.core.errors import BadSampleError
from luss_ray.imagenet_s import masks
from luss_ray.storage.prepare import Prepared, image_size, prepare

_NOISE = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    image = Image.fromarray(_NOISE).resize(size)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


def pack_one(image: bytes, mask: bytes | None = None, max_side_px: int | None = None) -> Prepared:
    return prepare(image, mask, num_categories=3, max_side_px=max_side_px)


ODD = {
    "grey.jpg": saved(picture("L"), "JPEG"),
    "cmyk.jpg": saved(picture("CMYK"), "JPEG"),
    "progressive.jpg": saved(picture(), "JPEG", progressive=True),
    "one_pixel.jpg": saved(picture(size=(1, 1)), "JPEG"),
    "one_pixel.png": saved(picture(size=(1, 1)), "PNG"),
    "line.png": saved(picture(size=(700, 1)), "PNG"),
    "16_bit.png": saved(picture("I;16"), "PNG"),
    "bits.png": saved(picture("1"), "PNG"),
    "palette.png": saved(picture("P"), "PNG"),
    "alpha.png": saved(picture("RGBA"), "PNG"),
    "grey_alpha.png": saved(picture("LA"), "PNG"),
    "animated.png": saved(picture(), "PNG", save_all=True, append_images=[picture("L").convert("RGB")]),
    "animated.webp": saved(picture(), "WEBP", save_all=True, append_images=[picture("L").convert("RGB")]),
    "lossless.webp": saved(picture("RGBA"), "WEBP", lossless=True),
}
FOREIGN = {
    "animated.gif": saved(picture("P"), "GIF", save_all=True, append_images=[picture("L").convert("P")]),
    "plain.bmp": saved(picture(), "BMP"),
    "cmyk.tif": saved(picture("CMYK"), "TIFF"),
    "16_bit.tif": saved(picture("I;16"), "TIFF"),
    "plain.ppm": saved(picture(), "PPM"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_images_keep_their_bytes(name):
    packed = pack_one(ODD[name])
    assert packed.image == ODD[name]
    assert packed.suffix == name.rpartition(".")[2]
    with Image.open(io.BytesIO(ODD[name])) as image:
        assert (packed.width, packed.height) == image.size == image_size(ODD[name])[::-1]


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_become_png_of_the_first_frame(name):
    packed = pack_one(FOREIGN[name])
    assert packed.suffix == "png"
    with Image.open(io.BytesIO(packed.image)) as image, Image.open(io.BytesIO(FOREIGN[name])) as source:
        assert image.format == "PNG"
        assert not getattr(image, "is_animated", False)
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(source.convert("RGB")))


@pytest.mark.parametrize("name", [*ODD, *FOREIGN])
def test_every_kind_can_be_made_smaller(name):
    packed = pack_one({**ODD, **FOREIGN}[name], max_side_px=10)
    with Image.open(io.BytesIO(packed.image)) as image:
        image.load()
        assert image.size == (packed.width, packed.height)
        assert 1 <= min(image.size) <= max(image.size) <= 10


def test_smaller_images_keep_their_look_and_their_mask():
    flat = Image.new("RGB", (400, 300), (200, 30, 90))
    packed = pack_one(saved(flat, "JPEG"), masks.encode(mask_ids(2, 400, 300)), max_side_px=100)
    assert (packed.height, packed.width, packed.suffix) == (75, 100, "jpg")
    assert packed.mask is not None
    assert masks.decode(packed.mask).shape == (75, 100)
    assert set(np.unique(masks.decode(packed.mask))) <= {0, 2, 1000}
    with Image.open(io.BytesIO(packed.image)) as image:
        assert np.allclose(np.asarray(image).mean((0, 1)), (200, 30, 90), atol=3)
    small = jpeg(1)
    assert pack_one(small, max_side_px=40).image == small, "small enough already"


def test_the_suffix_follows_the_content():
    assert pack_one(ODD["alpha.png"]).suffix == "png"
    assert pack_one(jpeg(0)).suffix == "jpg"


_BIG = {
    "grey": saved(picture("L", (400, 300)), "JPEG"),
    "cmyk": saved(picture("CMYK", (400, 300)), "JPEG"),
    "progressive": saved(picture(size=(400, 300)), "JPEG", progressive=True),
    "16_bit": saved(picture("I;16", (400, 300)), "PNG"),
    "alpha": saved(picture("RGBA", (400, 300)), "PNG"),
    "lossy": saved(picture(size=(400, 300)), "WEBP"),
    "gif": saved(picture("P", (400, 300)), "GIF"),
}


@pytest.mark.parametrize("name", _BIG)
@pytest.mark.parametrize("share", [0.98, 0.5, 0.05])
def test_truncated_images_are_bad_samples(name, share):
    assert pack_one(_BIG[name]).width == 400
    with pytest.raises(BadSampleError):
        pack_one(_BIG[name][: int(len(_BIG[name]) * share)])


@pytest.mark.parametrize("data", [b"", bytes(1000), b"<html>404</html>", b"\xff\xd8\xff", b"GIF89a", b"\x89PNG\r\n"])
def test_what_is_no_image_is_a_bad_sample_with_a_short_reason(data):
    with pytest.raises(BadSampleError) as caught:
        pack_one(data)
    assert "\n" not in caught.value.reason
    assert "0x" not in caught.value.reason, "no addresses of objects"


def test_floating_point_pixels_and_too_many_pixels_are_refused():
    with pytest.raises(BadSampleError, match="floating-point"):
        pack_one(saved(picture("F"), "TIFF"))
    huge = saved(Image.new("1", (9000, 9000)), "PNG")
    with pytest.raises(BadSampleError, match="9000 x 9000"):
        pack_one(huge)
    assert pack_one(huge, max_side_px=90).width == 90


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (masks.encode(mask_ids(1, 41, 30)), "41 x 30"),
        (masks.encode(mask_ids(4)), "category id 4"),
        (masks.encode(mask_ids(1))[:90], "unreadable mask"),
        (jpeg(0), "must be PNG"),
    ],
)
def test_masks_that_do_not_fit_are_bad_samples(mask, expected):
    with pytest.raises(BadSampleError, match=expected):
        pack_one(jpeg(0), mask)


def test_masks_of_one_channel_are_packed_as_rgb():
    grey = saved(Image.fromarray(np.minimum(mask_ids(2), 3).astype(np.uint8)), "PNG")
    packed = pack_one(jpeg(0), grey)
    assert packed.mask is not None
    assert packed.mask != grey
    assert np.array_equal(masks.decode(packed.mask), masks.decode(grey))
