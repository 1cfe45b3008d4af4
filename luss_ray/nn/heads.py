"""Small networks behind the backbone: projections, predictor, prototypes and pixel attention.

They are `nn.Sequential`s in the order of the published checkpoints, so that the entries' numbers agree.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from luss_ray.core.errors import UserError
from luss_ray.nn.resnet import initialise


class ProjectionHead(nn.Sequential):
    """Linear, batch norm, ReLU, linear, batch norm without affine; `embed` ends it with L2 normalisation.

    Args:
        channels: input features.
        hidden: width between.
        embedding_dim: output features.
    """

    def __init__(self, channels: int, hidden: int, embedding_dim: int) -> None:
        super().__init__(
            nn.Linear(channels, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, embedding_dim),
            nn.BatchNorm1d(embedding_dim, affine=False),
        )

    def embed(self, pooled: Float[Tensor, "B C"]) -> Float[Tensor, "B D"]:
        """Return float32 embeddings of length 1, also under autocast: codes are sensitive to their rounding."""
        return F.normalize(self(pooled).float(), dim=1)


class PixelProjector(nn.Sequential):
    """1x1-convolution MLP with two hidden layers, no biases, last batch norm without affine.

    Args:
        channels: input channels.
        hidden: width between.
        out_channels: output channels.
    """

    def __init__(self, channels: int, hidden: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels, affine=False),
        )
        initialise(self)


class PixelPredictor(nn.Sequential):
    """1x1 convolution, batch norm, ReLU, 1x1 convolution with bias, all of one width.

    Args:
        channels: input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
        )
        initialise(self)


class Prototypes(nn.Linear):
    """K directions in embedding space; called on embeddings it gives their scores, in float32 also under autocast.

    Args:
        embedding_dim: length of a prototype.
        num_prototypes: K.
    """

    def __init__(self, embedding_dim: int, num_prototypes: int) -> None:
        super().__init__(embedding_dim, num_prototypes, bias=False)

    @torch.no_grad()
    def normalise_(self) -> None:
        """Scale every prototype to length 1 in place; call it before each training step."""
        self.weight.copy_(F.normalize(self.weight, dim=1))

    def freeze_gradient(self) -> None:
        """Drop the gradient of this step; without one the optimiser leaves value and momentum alone."""
        self.weight.grad = None

    def scores(self, embeddings: Float[Tensor, "... D"], *, detached: bool = False) -> Float[Tensor, "... K"]:
        """Return embedding . prototype for all prototypes; `detached` keeps gradients from the prototypes."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(embeddings.float(), self.weight.detach() if detached else self.weight)

    def forward(self, input: Float[Tensor, "... D"]) -> Float[Tensor, "... K"]:
        """Return `scores`."""
        return self.scores(input)


UPSAMPLING = 4


def upsample(features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C 4*h 4*w"]:
    """Return features at four times the resolution (bilinear), which clustering and labels are made from."""
    return F.interpolate(features, scale_factor=UPSAMPLING, mode="bilinear", align_corners=False)


class PixelAttention(nn.Module):
    """Gate in (0, 1) for every channel of every upsampled pixel, from its features divided by their length.

    Args:
        channels: channels of the features and of the gate.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.atten = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
        )
        initialise(self)

    def forward(
        self, features: Float[Tensor, "B C h w"], lengths: Float[Tensor, "B 1 4*h 4*w"]
    ) -> Float[Tensor, "B C 4*h 4*w"]:
        """Return the gate.

        Args:
            features: as the backbone gives them. The first convolution comes before the upsampling, which published
                code does first: both are linear, so they may change places, and it has a 16th of the pixels then.
            lengths: of the upsampled features of each pixel, above 0.
        """
        first = self.atten[0]
        assert isinstance(first, nn.Conv2d) and first.bias is not None
        hidden = upsample(F.conv2d(features, first.weight)).float()
        hidden = torch.addcdiv(first.bias.view(1, -1, 1, 1), hidden, lengths)
        return torch.sigmoid(self.atten[1:](hidden) + self.threshold)


@dataclass(frozen=True, kw_only=True)
class SegmentationHead:
    """How logits are made from c4: a 1x1 convolution, with what goes before and comes after."""

    norm: bool = False
    """A layer norm of its own before; a backbone that ends in a norm has that one start anew instead."""
    patch: int = 1
    """Logits a side that each pixel of c4 gives."""
    upsampling: int = 1
    """How many times larger the logits are made, bilinearly."""
    std: float = 0.0
    """Standard deviation of the convolution's first weights, its bias being 0; 0 = Kaiming's, as published for PASS."""

    def __post_init__(self) -> None:
        if self.patch < 1 or self.upsampling < 1 or self.std < 0:
            raise UserError(
                f"head: patch {self.patch}, upsampling {self.upsampling}, std {self.std}: must be at least 1, 1 and 0"
            )


class PatchLogits(nn.Conv2d):
    """1x1 convolution to p x p logits for every pixel, put side by side.

    Args:
        channels: of the features.
        num_outputs: K, channels of the logits.
        head: patch p and first weights.
    """

    def __init__(self, channels: int, num_outputs: int, head: SegmentationHead) -> None:
        super().__init__(channels, num_outputs * head.patch**2, 1)
        self.patch = head.patch
        if head.std:
            nn.init.trunc_normal_(self.weight, std=head.std)
            assert self.bias is not None
            nn.init.zeros_(self.bias)
        else:
            initialise(self)

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K H W"]:
        """Return the logits; a pixel's channels are ordered by row, column, and output, as in ImageNetSegModel."""
        logits = super().forward(input)
        if self.patch == 1:
            return logits
        by_place = logits.unflatten(1, (self.patch, self.patch, -1)).permute(0, 3, 4, 1, 5, 2)
        return by_place.flatten(4, 5).flatten(2, 3)
