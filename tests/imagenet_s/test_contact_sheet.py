import io

import numpy as np
from fixtures_shards import mask_ids
from PIL import Image

from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.contact_sheet import TILE_PX, Tile, as_html, as_png, colour, overlay


def tile(title: str = "cat", mask: np.ndarray | None = None) -> Tile:
    return Tile(image=Image.new("RGB", (40, 30)), mask=mask, title=title, key=f"{title}/1")


def test_the_mask_s_colour_lies_over_its_pixels_only():
    pixels = overlay(tile(mask=mask_ids(2)), strength=1.0)
    assert pixels.shape == (TILE_PX * 3 // 4, TILE_PX, 3)
    assert pixels[60, 60].tolist() == list(colour(2))
    assert pixels[5, 5].tolist() == [0, 0, 0]
    assert pixels[22, 60].tolist() == [255, 255, 255] == list(colour(masks.IGNORE))
    assert not overlay(tile()).any()


def test_categories_have_distinct_colours():
    assert len({colour(number) for number in range(1, 51)}) == 50


def test_a_sheet_has_a_place_for_each_image():
    with Image.open(io.BytesIO(as_png([tile("猫")] * 8, columns=3))) as sheet:
        assert sheet.width > 3 * TILE_PX
        assert sheet.height > 3 * TILE_PX
    with Image.open(io.BytesIO(as_png([tile()]))) as sheet:
        assert sheet.width < 2 * TILE_PX


def test_a_page_is_self_contained_and_escapes_names():
    page = as_html([tile("<script>"), tile('"a" & b')], "a <b>").decode()
    assert page.count("<img ") == page.count("data:image/png;base64,") == page.count("alt=") == 2
    assert "<script>" not in page
    assert "http" not in page
    assert "a &lt;b&gt;" in page
