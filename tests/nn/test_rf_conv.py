import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from luss_ray.nn.rf_conv import RFConv2d, estimate, expand, merge


def depthwise(size: int = 7, channels: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels)


@pytest.mark.parametrize(
    "dilation, around", [(1, [1, 2]), (2, [1, 2, 3]), (3, [2, 3, 4]), (4, [2, 4, 6]), (6, [3, 6, 9])]
)
def test_dilations_around_one(dilation: int, around: list[int]) -> None:
    """Half less and half more, rounded, at least 1, each once."""
    assert expand(dilation) == around


def test_the_dilation_that_branches_stand_for() -> None:
    assert estimate(torch.tensor([0.01, 0.01, 0.01]), [1, 2, 3]) == 2
    assert estimate(torch.tensor([0.0, -5.0]), [1, 2]) == 2, "the sign of a weight does not count"
    assert estimate(torch.tensor([3.0, 1.0]), [1, 2]) == 1
    assert estimate(torch.tensor([1.0, 1.0, 6.0]), [2, 4, 6]) == 5


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([3, 5, 7]),
    st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True),
    st.lists(st.floats(0.01, 5), min_size=3, max_size=3),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_a_merged_kernel_is_its_branches(
    size: int, dilations: list[int], weights: list[float], image: tuple[int, int]
) -> None:
    """Also at the borders, and where a kernel is larger than the image."""
    kernel, pixels = torch.randn(2, 1, size, size).double(), torch.randn(1, 2, *image).double()
    signed = torch.tensor(weights[: len(dilations)]).double() * torch.tensor([1, -1, 1])[: len(dilations)]
    branches = sum(
        abs(weight) / signed.abs().sum() * F.conv2d(pixels, kernel, padding=d * (size // 2), dilation=d, groups=2)
        for weight, d in zip(signed, dilations, strict=True)
    )
    dense = merge(kernel, signed, dilations)
    assert dense.shape[-1] == (size - 1) * max(dilations) + 1
    torch.testing.assert_close(F.conv2d(pixels, dense, padding=dense.shape[-1] // 2, groups=2), branches)


def test_branches_share_kernel_and_bias() -> None:
    plain = depthwise()
    searched, pixels = RFConv2d(plain, branched=True), torch.randn(2, 3, 20, 15)
    assert searched.weight is plain.weight and searched.dilations == [1, 2] and not searched.is_wide
    expected = sum(F.conv2d(pixels, plain.weight, plain.bias, padding=3 * d, dilation=d, groups=3) / 2 for d in (1, 2))
    torch.testing.assert_close(searched(pixels), expected)
    torch.testing.assert_close(RFConv2d(plain, branched=False)(pixels), plain(pixels))
    searched(pixels).sum().backward()
    assert searched.sample_weights is not None and searched.sample_weights.grad is not None
    assert searched.sample_weights.grad[2] == 0, "there is no third branch around dilation 1"


def test_a_search_moves_to_the_branch_that_matters() -> None:
    searched = RFConv2d(depthwise(), branched=True)
    assert searched.sample_weights is not None
    found = []
    for _ in range(3):
        with torch.no_grad():
            searched.sample_weights[len(searched.dilations) - 1] = 10.0
        searched.search()
        found.append(searched.dilations)
        assert searched.sample_weights.tolist() == pytest.approx([0.01] * 3)
    assert found == [[1, 2, 3], [2, 3, 4], [2, 4, 6]] and searched.is_wide
    pixels, again = torch.randn(1, 3, 20, 20), RFConv2d(depthwise(), branched=True)
    again.load_state_dict(searched.state_dict())
    assert again.dilations == [2, 4, 6]
    torch.testing.assert_close(again(pixels), searched(pixels))


def test_state_dicts_have_the_published_entries() -> None:
    state = RFConv2d(depthwise(), branched=True).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes == {"weight": (3, 1, 7, 7), "bias": (3,), "sample_weights": (3,), "rates": (3, 2), "num_rates": (1,)}
    assert state["rates"][:2].tolist() == [[1, 1], [2, 2]] and state["num_rates"].tolist() == [2]


def test_kernels_of_other_sizes_are_taken() -> None:
    merged = RFConv2d(depthwise(), branched=False)
    state = merged.state_dict() | {"weight": torch.randn(3, 1, 19, 19)}
    merged.load_state_dict(state)
    pixels = torch.randn(1, 3, 24, 24)
    expected = F.conv2d(pixels, state["weight"], merged.bias, padding=9, groups=3)
    torch.testing.assert_close(merged(pixels), expected)
    assert merged.is_wide
    merged.load_state_dict(state | {"weight": torch.randn(3, 1, 13, 13)})
    assert not merged.is_wide, "branches 1 and 2, around 1"
