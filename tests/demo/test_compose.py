"""Scenes: pure functions with exact masks, made of their own split's pictures only."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luss_ray.demo import assets, compose
from luss_ray.demo.compose import MID_TONE, category_of, scene
from luss_ray.demo.variants import DEMO, DEMO_HARD, VARIANTS, DemoVariant
from luss_ray.imagenet_s.masks import IGNORE, OTHER

SMALL = replace(DEMO_HARD, side_px=64)
STILL = replace(
    DEMO,
    clutter=0,
    gain=0.0,
    light_slope=0.0,
    wall_tone=0.0,
    rotation_deg=0.0,
    squeeze=0.0,
    outside=0.0,
    saturation=1.0,
    evenness=0.0,
)
MAGENTA = np.array((240, 0, 240))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[assets.Asset]:
    """Return a list that fills with the assets that scenes use."""
    used = []
    pixels = assets.pixels
    monkeypatch.setattr(assets, "pixels", lambda asset: used.append(asset) or pixels(asset))
    return used


@pytest.fixture
def disc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every cut-out a magenta disc with a smooth edge."""
    rows, columns = np.mgrid[:128, :128] - 63.5
    opacity = np.clip(62 - np.hypot(rows, columns), 0, 1)[..., None] * 255
    picture = np.concatenate([np.broadcast_to(MAGENTA, (128, 128, 3)), opacity], -1).astype(np.uint8)
    monkeypatch.setattr(assets, "pixels", lambda _: picture)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_same_arguments_same_scene(variant: DemoVariant):
    first, again = scene(3, "train", 11, variant), scene(3, "train", 11, variant)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (scene(4, "train", 11, variant), scene(3, "train", 25, variant), scene(3, "validation", 11, variant)):
        assert not np.array_equal(first[0], other[0])


def test_validation_and_test_are_different_scenes():
    assert not np.array_equal(scene(0, "validation", 5, DEMO)[0], scene(0, "test", 5, DEMO)[0])


def test_categories_take_turns():
    num = len(DEMO.categories)
    assert [category_of(index, DEMO) for index in range(num + 2)] == [*range(1, num + 1), 1, 2]


@given(
    seed=st.integers(0, 2**31),
    split=st.sampled_from(compose.SPLITS),
    index=st.integers(0, 10**6),
    outside=st.floats(0, 0.4),
    scale=st.tuples(st.floats(0.1, 0.7), st.floats(0.7, 1.5)),
    neutral=st.booleans(),
)
@settings(max_examples=60)
def test_any_scene_is_an_image_with_a_mask(*, seed, split, index, outside, scale, neutral):
    variant = replace(SMALL, outside=outside, object_scale=scale, neutral=neutral)
    image, mask = scene(seed, split, index, variant)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert mask.shape == (64, 64) and mask.dtype == np.uint16
    assert set(np.unique(mask)) <= {OTHER, category_of(index, variant), IGNORE}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_the_object_is_there_in_every_scene(variant: DemoVariant):
    for index in range(3 * len(variant.categories)):
        share = (scene(0, "train", index, variant)[1] == category_of(index, variant)).mean()
        assert 0.001 < share < 0.9, (index, share)


@pytest.mark.usefixtures("disc")
@pytest.mark.parametrize("index", range(5))
def test_the_mask_is_exact(index: int):
    """Inside it is the object's own colour, outside there is none of it, between them a thin band is ignored."""
    image, mask = scene(0, "train", index, STILL)
    distance = np.abs(image.astype(int) - MAGENTA).max(-1)
    inside, ignored = mask == category_of(index, STILL), mask == IGNORE
    assert distance[inside].max() < 40 and distance[mask == OTHER].min() > 60
    near = cv2.dilate(inside.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
    assert ignored.any() and near[ignored].all()
    touching = cv2.dilate(inside.astype(np.uint8), np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)) > 0
    assert (touching & (mask == OTHER)).sum() <= 0.05 * ignored.sum()


@pytest.mark.usefixtures("disc")
def test_muted_objects_are_grey_mid_tones():
    image, mask = scene(0, "train", 0, replace(STILL, saturation=0.0, evenness=1.0))
    inside = image[mask == category_of(0, STILL)].astype(int)
    assert np.abs(inside - inside.mean(1, keepdims=True)).max() < 16  # the scene's noise
    assert abs(inside.mean() - MID_TONE) < 4


@pytest.mark.usefixtures("disc")
def test_an_object_that_reaches_out_is_cut_off_not_moved():
    variant = replace(STILL, outside=0.4, object_scale=(0.6, 0.6))
    reaching = 0
    for index in range(20):
        inside = scene(0, "train", index, variant)[1] == category_of(index, variant)
        reaching += inside[[0, -1]].any() or inside[:, [0, -1]].any()
        assert inside.any()
    assert reaching >= 5


@pytest.mark.parametrize(
    ("split", "source"), [("train", "train"), ("validation", "validation"), ("test", "validation")]
)
def test_a_split_shows_only_its_own_pictures(shown: list[assets.Asset], split: str, source: str):
    for index in range(56):
        scene(0, split, index, SMALL)
    assert {asset.split for asset in shown} == {source}
    assert {assets.CLUTTER, assets.BACKGROUND, *SMALL.categories} == {asset.category for asset in shown}


def test_a_scene_shows_one_object_of_its_category(shown: list[assets.Asset]):
    for index in range(len(SMALL.categories)):
        shown.clear()
        scene(0, "train", index, SMALL)
        objects = [asset.category for asset in shown if asset.category in SMALL.categories]
        assert objects == [SMALL.categories[category_of(index, SMALL) - 1]]


def test_neutral_scenes_have_no_photographs_and_the_same_room(shown: list[assets.Asset]):
    variant = replace(SMALL, neutral=True, clutter=0)
    for index in range(len(variant.categories)):
        scene(0, "train", index, variant)
    assert assets.BACKGROUND not in {asset.category for asset in shown}


def test_contrast_of_photographs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compose, "_paste", lambda canvas, *_: np.zeros(canvas.shape[:2], np.float32))
    monkeypatch.setattr(compose, "_shade", lambda *_: None)
    car = replace(SMALL, categories=("car",), gain=0.0, light_slope=0.0)
    flat, full = (scene(0, "train", 0, replace(car, photo_contrast=contrast))[0].std((0, 1)) for contrast in (0.0, 1.0))
    assert (flat < 4).all() and (full > flat).all()
