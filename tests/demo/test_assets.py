"""The committed pictures: who made them, which split shows them, how much they weigh."""

import numpy as np
import pytest
from PIL import Image

from luss_ray.demo import assets
from luss_ray.demo.variants import FAMILIES, VARIANTS

MOST_BYTES = 2_500_000
FREE = {"CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US", "public-domain"}
ATTRIBUTION = assets.FOLDER.parent / "ATTRIBUTION.md"


def test_everything_weighs_little():
    assert sum(path.stat().st_size for path in assets.FOLDER.iterdir()) <= MOST_BYTES


def test_catalogue_and_files_name_each_other():
    files = {path.name for path in assets.FOLDER.iterdir()} - {"catalogue.json"}
    assert files == {asset.atlas for asset in assets.catalogue()}


def test_boxes_lie_within_their_files_and_do_not_overlap():
    for name in {asset.atlas for asset in assets.catalogue()}:
        with Image.open(assets.FOLDER / name) as image:
            covered = np.zeros((image.height, image.width), int)
        for left, top, width, height in (asset.box for asset in assets.catalogue() if asset.atlas == name):
            assert 0 <= left < left + width <= covered.shape[1] and 0 <= top < top + height <= covered.shape[0]
            covered[top : top + height, left : left + width] += 1
        assert covered.max() == 1


def test_cut_outs_have_an_object_on_a_clear_ground():
    for asset in assets.catalogue():
        picture = assets.pixels(asset)
        assert picture.shape == (asset.box[3], asset.box[2], 3 if asset.category == assets.BACKGROUND else 4)
        if asset.category != assets.BACKGROUND:
            opaque = (picture[..., 3] > 128).mean()
            assert opaque > 0.02, asset


def test_no_picture_is_in_two_splits():
    by_split = {
        split: {asset.item for asset in assets.catalogue() if asset.split == split} for split in ("train", "validation")
    }
    assert not by_split["train"] & by_split["validation"]
    assert len(by_split["train"] | by_split["validation"]) == len(assets.catalogue())


def test_no_two_pictures_are_the_same():
    pictures = [assets.pixels(asset) for asset in assets.catalogue()]
    assert len({(picture.shape, picture.tobytes()) for picture in pictures}) == len(pictures)


@pytest.mark.parametrize("category", FAMILIES)
def test_a_category_has_enough_cut_outs_in_both_splits(category: str):
    assert len(assets.select(category, "train")) >= 7
    assert len(assets.select(category, "validation")) >= 3


def test_what_variants_ask_for_is_there():
    assert len(FAMILIES) == 14
    for variant in VARIANTS.values():
        assert 6 <= len(set(variant.categories)) == len(variant.categories)
        assert set(variant.categories) <= set(FAMILIES)
    for split in ("train", "validation"):
        assert assets.select(assets.CLUTTER, split)
        for family in ("meadow", "dry", "mist"):
            assert assets.select(assets.BACKGROUND, split, family)


def test_families_narrow_a_selection():
    meadow = assets.select(assets.BACKGROUND, "train", "meadow")
    assert {asset.name for asset in meadow} == {"meadow"}
    assert set(meadow) < set(assets.select(assets.BACKGROUND, "train"))


def test_every_picture_is_free_and_credited():
    """One row of the attribution for each asset, with its creator and licence."""
    rows = [line for line in ATTRIBUTION.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    for asset in assets.catalogue():
        assert asset.licence in FREE
        (row,) = (row for row in rows if f"`{asset.item}`" in row)
        assert asset.licence in row and asset.creator in row


def test_nothing_else_is_credited():
    items = {asset.item for asset in assets.catalogue()}
    rows = [
        line for line in ATTRIBUTION.read_text(encoding="utf-8").splitlines() if line.startswith("|") and "`" in line
    ]
    assert {row.split("`")[1] for row in rows} == items
