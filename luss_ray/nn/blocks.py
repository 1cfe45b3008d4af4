"""Residual blocks with torchvision's layers and names.

torchvision has the same; importing it takes as long as importing torch, in each of a run's many processes.
"""

from jaxtyping import Float
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside the identity (ResNet-18 and -34).

    Args:
        in_channels: of the input.
        width: of both convolutions.
        stride: of the first.
        downsample: brings the input to the output's shape; None where it has it.
        dilation: 1.
        kernel: of the first convolution; 4 where a stride of 2 is to be centred (see `Architecture`).

    Source: He et al., "Deep residual learning for image recognition", arXiv 1512.03385.
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        dilation: int = 1,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        assert dilation == 1, "only bottlenecks are dilated"
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the block's output."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside the identity, four times as wide at the end (ResNet-50 and deeper).

    Args:
        in_channels: of the input.
        width: of the 3x3 convolution.
        stride: of the 3x3 convolution, as in torchvision ("v1.5"); the paper has it in the first.
        downsample: brings the input to the output's shape; None where it has it.
        dilation: of the 3x3 convolution.
        kernel: of the middle convolution; 4 where a stride of 2 is to be centred (see `Architecture`).

    Source: He et al., "Deep residual learning for image recognition", arXiv 1512.03385.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        dilation: int = 1,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the block's output."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)
