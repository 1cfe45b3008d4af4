import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from luss_ray.core.errors import UserError
from luss_ray.metrics.threshold import AttentionHistogram, otsu, separability, two_gaussians

METHODS = [otsu, two_gaussians]


def histogram(values: np.ndarray) -> AttentionHistogram:
    counted = AttentionHistogram()
    counted.update(values)
    return counted


def two_modes(seed: int = 0, low: float = 0.25, high: float = 0.7, share: float = 0.7) -> AttentionHistogram:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(low, 0.05, int(1e5 * share)), rng.normal(high, 0.08, int(1e5 * (1 - share)))])
    return histogram(values.clip(0, 1).astype(np.float32))


@pytest.mark.parametrize("method", METHODS)
def test_two_modes_are_split_between_them(method) -> None:
    counted = two_modes()
    assert 0.38 < method(counted.counts, counted.edges) < 0.55
    assert separability(counted.counts, counted.edges) > 0.85


def test_two_gaussians_sits_where_the_components_are_equally_likely() -> None:
    counted = two_modes(share=0.5)
    x = np.linspace(0.25, 0.7, 4501)
    likelihoods = [np.exp(-(((x - mean) / width) ** 2) / 2) / width for mean, width in ((0.25, 0.05), (0.7, 0.08))]
    crossing = x[np.argmax(likelihoods[1] >= likelihoods[0])]
    assert two_gaussians(counted.counts, counted.edges) == pytest.approx(crossing, abs=0.01)


@settings(max_examples=40)
@given(arrays(np.int64, 12, elements=st.integers(0, 20)).filter(lambda counts: (counts > 0).sum() > 1))
def test_otsu_maximises_the_variance_between_sides(counts: np.ndarray) -> None:
    edges = np.arange(13) / 12
    values = np.repeat((edges[1:] + edges[:-1]) / 2, counts)

    def between(threshold: float) -> float:
        low, high = values[values < threshold], values[values >= threshold]
        return 0.0 if not (len(low) and len(high)) else len(low) * len(high) * (low.mean() - high.mean()) ** 2

    assert between(otsu(counts, edges)) == pytest.approx(max(map(between, edges)))


@pytest.mark.parametrize("method", METHODS)
def test_a_single_bin_keeps_every_pixel(method) -> None:
    counted = histogram(np.full(100, 0.4321, np.float32))
    threshold = method(counted.counts, counted.edges)
    assert threshold == pytest.approx(0.432) and not (np.float32(0.4321) < threshold)
    assert separability(counted.counts, counted.edges) == 0


@pytest.mark.parametrize("method", [*METHODS, separability])
def test_an_empty_histogram_is_a_user_error(method) -> None:
    with pytest.raises(UserError, match="empty"):
        method(AttentionHistogram().counts, AttentionHistogram().edges)


@pytest.mark.parametrize("method", METHODS)
def test_two_spikes_are_split_in_the_gap(method) -> None:
    counted = histogram(np.array([0.2] * 90 + [0.8] * 10, np.float32))
    assert 0.2 < method(counted.counts, counted.edges) <= 0.801
    assert separability(counted.counts, counted.edges) == pytest.approx(1)


def test_one_mode_gives_a_threshold_within_it_and_low_separability() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.05, 100_000).astype(np.float32)
    counted = histogram(values)
    assert 0.45 < otsu(counted.counts, counted.edges) < 0.55
    assert separability(counted.counts, counted.edges) == pytest.approx(2 / np.pi, abs=0.01)
    assert 0.3 < two_gaussians(counted.counts, counted.edges) < 0.7


def test_histogram_merges_and_holds_every_value() -> None:
    values = np.array([0.0, 0.5, 1.0, 1.2, -0.1], np.float32)
    counted = histogram(values) + histogram(values)
    assert counted.counts.sum() == 10 and counted.counts[[0, 500, 999]].tolist() == [4, 2, 4]
