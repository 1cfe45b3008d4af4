import numpy as np
import pytest
from fixtures_shards import jpeg
from hypothesis import given
from hypothesis import strategies as st

from luss_ray.config.recipe import Finetune
from luss_ray.core.errors import BadSampleError
from luss_ray.core.seeds import generator
from luss_ray.data.crops import DRAWS_PER_CROP, CropSpec, draw_boxes
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.soft_label import SoftLabel
from luss_ray.train.paired_crop import PairedCrop, PseudoLabels, TrueMasks

SETTINGS = Finetune(crop_px=32)
SPEC = CropSpec(num=1, size_px=32, scale=SETTINGS.scale)
WIDTH, HEIGHT = 90, 61
IMAGE = jpeg(3, WIDTH, HEIGHT)


def soft_label(seed: int) -> SoftLabel:
    rng = generator(seed)
    labels = rng.integers(1, 920, (8, 12), np.uint16)
    return SoftLabel(labels, rng.integers(0, 256, (8, 12), np.uint8))


@given(st.integers(0, 200), st.sampled_from([0.0, 0.37, 0.4, 0.8]))
def test_labels_of_a_crop_are_the_whole_maps(seed, threshold):
    label, draws = soft_label(seed), generator(seed).random(DRAWS_PER_CROP)
    sample = PairedCrop(SETTINGS, PseudoLabels(threshold))(IMAGE, label.encode(), draws)
    assert sample["crop"].shape == (32, 32, 3) and sample["label"].dtype == np.uint16
    whole = label.resized(HEIGHT, WIDTH).pseudo_label(threshold)
    left, top, width, height, flip = draw_boxes(HEIGHT, WIDTH, SPEC, draws[None])[0]
    place = (np.arange(32) + 0.5) / 32
    expected = whole[np.ix_(top + (place * height).astype(int), left + (place * width).astype(int))]
    np.testing.assert_array_equal(sample["label"], expected[:, ::-1] if flip else expected)


def test_a_higher_threshold_only_takes_labels_away():
    label, draws = soft_label(1).encode(), generator(1).random(DRAWS_PER_CROP)
    crops = [PairedCrop(SETTINGS, PseudoLabels(threshold)) for threshold in (0.3, 0.6)]
    low, high = (crop(IMAGE, label, draws)["label"] for crop in crops)
    assert 0 < (high > 0).sum() < (low > 0).sum()
    np.testing.assert_array_equal(low[high > 0], high[high > 0])


@pytest.mark.parametrize("label", [None, b"", b"no PNG", soft_label(0).encode()[:100]])
def test_a_label_that_is_not_there_or_broken_is_a_bad_sample(label):
    with pytest.raises(BadSampleError):
        PairedCrop(SETTINGS, PseudoLabels(0.4))(IMAGE, label, np.zeros(DRAWS_PER_CROP))


def test_masks_are_cut_as_the_image_is():
    mask = generator(5).integers(0, 1001, (HEIGHT, WIDTH)).astype(np.uint16)
    draws = generator(1).random(DRAWS_PER_CROP)
    sample = PairedCrop(SETTINGS, TrueMasks())(IMAGE, masks.encode(mask), draws)
    left, top, width, height, flip = draw_boxes(HEIGHT, WIDTH, SPEC, draws[None])[0]
    place = (np.arange(32) + 0.5) / 32
    expected = mask[np.ix_(top + (place * height).astype(int), left + (place * width).astype(int))]
    np.testing.assert_array_equal(sample["label"], expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize("mask", [masks.encode(np.zeros((HEIGHT, WIDTH + 1), np.uint16)), b"no mask"])
def test_a_mask_of_another_size_or_unreadable_is_a_bad_sample(mask):
    with pytest.raises(BadSampleError):
        PairedCrop(SETTINGS, TrueMasks())(IMAGE, mask, np.zeros(DRAWS_PER_CROP))
