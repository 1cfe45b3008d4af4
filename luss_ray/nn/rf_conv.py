"""Convolutions that look for their receptive field: one kernel at several dilations, summed with learnt weights."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from luss_ray.core.errors import UserError

NUM_BRANCHES = 3
_EXPANSION = 0.5
_START_WEIGHT = 0.01
BRANCHES = ("sample_weights", "rates", "num_rates")
"""Entries of a state dict beside weight and bias; the names are those of the published checkpoints."""


def expand(dilation: int) -> list[int]:
    """Return the dilations around one: half less, itself, and half more, at least 1, each once.

    Args:
        dilation: at least 1.
    """
    around = [(1 - _EXPANSION) * dilation, dilation, (1 + _EXPANSION) * dilation]
    return list(dict.fromkeys(max(1, round(value)) for value in around))


def shares(sample_weights: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the branches' shares of the output: their weights' absolute values, made to sum to 1."""
    absolute = sample_weights.abs()
    return absolute / absolute.sum()


def estimate(sample_weights: Float[Tensor, " b"], dilations: list[int]) -> int:
    """Return the dilation that branches stand for: the mean of theirs by their shares, rounded, at least 1."""
    weighted = zip(shares(sample_weights.double()).tolist(), dilations, strict=True)
    return max(1, round(sum(share * dilation for share, dilation in weighted)))


def merge(
    kernel: Float[Tensor, "o i s s"], sample_weights: Float[Tensor, " b"], dilations: list[int]
) -> Float[Tensor, "o i t t"]:
    """Return one dense kernel that does what the branches do together.

    Args:
        kernel: the branches' own, of odd size.
        sample_weights: of the branches.
        dilations: of the branches.
    """
    size = kernel.shape[-1]
    extent = (size - 1) * max(dilations) + 1
    dense = kernel.new_zeros(*kernel.shape[:2], extent, extent)
    for share, dilation in zip(shares(sample_weights), dilations, strict=True):
        margin = (extent - (size - 1) * dilation - 1) // 2
        place = slice(margin, extent - margin, dilation)
        dense[:, :, place, place] += kernel * share
    return dense


class RFConv2d(nn.Conv2d):
    """A depthwise convolution whose kernel is applied at up to three dilations, which share it; the size stays.

    Several branches are searched through or trained (`searches`); with a single one it is a plain dilated convolution.
    It takes kernels of any odd size from a state dict.

    Args:
        like: the convolution it stands in for; its kernel and bias are taken over.
        branched: whether it has weights for branches; it begins with those around dilation 1.

    Source: Gao et al., "RF-Next: Efficient Receptive Field Search for Convolutional Neural Networks", arXiv 2206.06637.
    """

    def __init__(self, like: nn.Conv2d, *, branched: bool) -> None:
        super().__init__(
            like.in_channels,
            like.out_channels,
            (like.kernel_size[0], like.kernel_size[1]),
            groups=like.groups,
            bias=like.bias is not None,
        )
        assert like.kernel_size[0] == like.kernel_size[1] and like.kernel_size[0] % 2 and like.stride == (1, 1)
        self.weight, self.bias = like.weight, like.bias
        self.sample_weights = nn.Parameter(self.fresh_weights()) if branched else None
        self.start_size = self.kernel_size[0]
        self.dilations = expand(1) if branched else [1]
        self.rates: Tensor
        self.num_rates: Tensor
        for name, buffer in self.as_buffers(self.dilations).items():
            self.register_buffer(name, buffer)

    @staticmethod
    def fresh_weights() -> Float[Tensor, " b"]:
        """Return the weights that branches begin with."""
        return torch.full((NUM_BRANCHES,), _START_WEIGHT)

    @staticmethod
    def as_buffers(dilations: list[int]) -> dict[str, Tensor]:
        """Return what a state dict holds of dilations, which `dilations_in` reads."""
        rates = torch.ones(NUM_BRANCHES, 2, dtype=torch.int32)
        for branch, dilation in enumerate(dilations):
            rates[branch] = dilation
        return {"rates": rates, "num_rates": torch.tensor([len(dilations)], dtype=torch.int32)}

    @property
    def is_wide(self) -> bool:
        """Whether its dilation is not 1 any more: that of its only branch, of its branches' middle, or of those that
        were merged into its kernel."""
        if self.kernel_size[0] > self.start_size:
            return self.kernel_size[0] > 2 * self.start_size - 1  # a search that stayed at 1 tries 1 and 2
        return self.dilations != expand(1) and self.dilations != [1]

    @torch.no_grad()
    def search(self) -> None:
        """Move on to the dilations around the one that the branches stand for, with equal weights."""
        assert self.sample_weights is not None
        self.dilations = expand(estimate(self.sample_weights[: len(self.dilations)], self.dilations))
        for name, buffer in self.as_buffers(self.dilations).items():
            getattr(self, name).copy_(buffer)
        self.sample_weights.fill_(_START_WEIGHT)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the weighted sum of the branches."""
        if self.sample_weights is None or len(self.dilations) == 1:
            return self._branch(input, self.bias, self.dilations[0])
        weights = shares(self.sample_weights[: len(self.dilations)])
        parts = [
            self._branch(input, None, dilation) * weight
            for dilation, weight in zip(self.dilations, weights.unbind(), strict=True)
        ]
        total = torch.stack(parts).sum(dim=0)
        return total if self.bias is None else total + self.bias.view(1, -1, 1, 1)

    def _branch(self, input: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        padding = dilation * (self.kernel_size[0] // 2)
        return F.conv2d(input, self.weight, bias, padding=padding, dilation=dilation, groups=self.groups)

    def fit(self, kernel: Tensor) -> None:
        """Take the size of a kernel that is to be loaded, where it is one of so many channels."""
        if kernel.shape[:2] == self.weight.shape[:2] and kernel.shape != self.weight.shape:
            self.kernel_size = (kernel.shape[2], kernel.shape[3])
            self.weight = nn.Parameter(self.weight.new_empty(kernel.shape))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if f"{prefix}weight" in state_dict:
            self.fit(state_dict[f"{prefix}weight"])
        super()._load_from_state_dict(state_dict, prefix, *rest)  # pyright: ignore[reportArgumentType]
        if not self.rates.is_meta:
            self.dilations = dilations_in(self.rates, self.num_rates)


def dilations_in(rates: Tensor, num_rates: Tensor) -> list[int]:
    """Return the dilations that a state dict holds.

    Raises:
        UserError: it has others for height and width.
    """
    used = rates[: int(num_rates)]
    if not torch.equal(used[:, 0], used[:, 1]):
        raise UserError(f"dilations {used.tolist()} of a receptive-field convolution differ in height and width")
    return [int(value) for value in used[:, 0].tolist()]
