import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luss_ray.core.seeds import generator
from luss_ray.imagenet_s.soft_label import Maps, SoftLabel
from luss_ray.metrics.coverage import LabelCounts


def drawn(seed: int, shape: tuple[int, int] = (9, 11)) -> SoftLabel:
    rng = generator(seed)
    return SoftLabel(rng.integers(1, 5, shape, np.uint16), rng.integers(0, 256, shape, np.uint8))


@given(st.integers(0, 100), st.sampled_from([0.0, 0.2, 0.37, 0.4, 0.41, 0.8, 1.0]))
def test_counts_are_those_of_the_labels_at_the_threshold(seed, threshold):
    counts, kept = LabelCounts(4), []
    for number in range(3):
        label = drawn(seed + 1000 * number)
        counts.update(label)
        attention = label.attention / np.float32(255)
        kept.append(Maps(label.labels, attention).pseudo_label(threshold))
    pixels = np.stack(kept)
    assert counts.coverage([threshold])[0] == pytest.approx(100 * (pixels > 0).mean())
    found = np.array([(pixels == cluster).sum() for cluster in range(1, 5)])
    np.testing.assert_allclose(counts.shares(threshold), 100 * found / max(1, found.sum()))


def test_parts_add_up():
    whole, parts = LabelCounts(4), [LabelCounts(4), LabelCounts(4)]
    for number in range(6):
        whole.update(drawn(number))
        parts[number % 2].update(drawn(number))
    np.testing.assert_array_equal((parts[0] + parts[1]).pixels, whole.pixels)
    assert whole.pixels.sum() == 6 * 99


def test_nothing_counted_is_nothing_covered():
    assert LabelCounts(3).coverage([0.0, 0.5]).tolist() == [0, 0]
    assert LabelCounts(3).shares(0.5).tolist() == [0, 0, 0]
