import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from luss_ray.core.errors import BadSampleError
from luss_ray.core.seeds import generator
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.soft_label import Maps, SoftLabel

sides = st.integers(1, 24)
shapes = st.tuples(sides, sides)


@st.composite
def soft_labels(draw) -> SoftLabel:
    shape = draw(shapes)
    return SoftLabel(draw(arrays(np.uint16, shape)), draw(arrays(np.uint8, shape)))


def drawn(seed: int, height: int, width: int, num_clusters: int = 1000) -> SoftLabel:
    rng = generator(seed)
    labels = rng.integers(1, num_clusters + 1, (height, width), np.uint16)
    return SoftLabel(labels, rng.integers(0, 256, (height, width), np.uint8))


@given(soft_labels())
def test_what_is_encoded_comes_back(label):
    data = label.encode()
    back = SoftLabel.decode(data)
    np.testing.assert_array_equal(back.labels, label.labels)
    np.testing.assert_array_equal(back.attention, label.attention)
    np.testing.assert_array_equal(masks.decode(data), label.labels)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")


@given(soft_labels(), st.data())
def test_broken_bytes_are_a_bad_sample(label, data):
    encoded = label.encode()
    with pytest.raises(BadSampleError):
        SoftLabel.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(BadSampleError):
        SoftLabel.decode(data.draw(st.binary(max_size=200)))


def test_another_kind_of_image_is_a_bad_sample():
    for mode, kind in (("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("RGB", "BMP")):
        buffer = io.BytesIO()
        Image.new(mode, (5, 4)).save(buffer, kind)
        with pytest.raises(BadSampleError, match=f"{kind} in {mode}"):
            SoftLabel.decode(buffer.getvalue())


def resized_by_torch(label: SoftLabel, height: int, width: int) -> Maps:
    clusters = torch.from_numpy(label.labels.astype(np.float32))[None, None]
    attention = torch.from_numpy(label.attention / np.float32(255))[None, None]
    size = (height, width)
    return Maps(
        F.interpolate(clusters, size, mode="nearest")[0, 0].numpy().astype(np.uint16),
        F.interpolate(attention, size, mode="bilinear", align_corners=False)[0, 0].numpy(),
    )


@given(st.integers(0, 1000), shapes, st.tuples(st.integers(1, 300), st.integers(1, 300)), st.integers(0, 100))
def test_resizing_is_that_of_torch(seed, shape, size, percent):
    label = drawn(seed, *shape)
    ours, reference = label.resized(*size), resized_by_torch(label, *size)
    np.testing.assert_array_equal(ours.clusters, reference.clusters)
    np.testing.assert_allclose(ours.attention, reference.attention, atol=2e-6)
    threshold = percent / 100
    off = ours.pseudo_label(threshold) != reference.pseudo_label(threshold)
    assert np.abs(reference.attention[off] - threshold).max(initial=0) <= 2e-6


@pytest.mark.parametrize("scale", [1, 2, 3, 8])
def test_resizing_by_a_whole_number(scale):
    label = drawn(scale, 9, 14)
    reference = resized_by_torch(label, 9 * scale, 14 * scale)
    np.testing.assert_array_equal(label.resized(9 * scale, 14 * scale).clusters, reference.clusters)


@given(st.integers(0, 1000), shapes, st.tuples(st.integers(1, 300), st.integers(1, 300)), st.data())
def test_some_pixels_are_those_of_the_whole_map(seed, shape, size, data):
    label, (height, width) = drawn(seed, *shape), size
    rows = np.array(data.draw(st.lists(st.integers(0, height - 1), min_size=1, max_size=30)))
    columns = np.array(data.draw(st.lists(st.integers(0, width - 1), min_size=1, max_size=30)))
    whole, some = label.resized(height, width), label.at(rows, columns, height=height, width=width)
    np.testing.assert_array_equal(some.clusters, whole.clusters[np.ix_(rows, columns)])
    np.testing.assert_array_equal(some.attention, whole.attention[np.ix_(rows, columns)])


def test_a_flat_attention_at_the_threshold_stays_whole():
    """102/255 is 0.4: neither side of the comparison may lose a bit on the way."""
    label = SoftLabel(np.full((7, 5), 3, np.uint16), np.full((7, 5), 102, np.uint8))
    assert (label.resized(211, 97).pseudo_label(0.4) == 3).all()
    assert (label.resized(211, 97).pseudo_label(0.41) == 0).all()
