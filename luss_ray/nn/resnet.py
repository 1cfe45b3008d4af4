"""Residual networks with torchvision's layers and names, of any width, that give all four stages."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from luss_ray.nn.blocks import BasicBlock, Bottleneck

BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


@dataclass(frozen=True)
class Architecture:
    """Shape of a residual network.

    Args:
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1 with four times the width at the end).
        layers: number of blocks of each stage.
        widths: planes of each stage (a bottleneck's output has four times as many channels).
        strides: stride of each stage's first block; the published ResNets have 1, 2, 2, 2.
        stem_width: channels of the first convolution; 0 takes the first stage's width.
        stem: "imagenet" is a 7x7 convolution of stride 2 and a max-pool of stride 2, "small" is a 3x3 convolution of
            stride 2 alone and "full" one of stride 1, for images of few pixels.
        dilate_last: dilation 2 in place of the last stage's stride (D16), bottleneck only.
        centred: strides of 2 by kernels of even size, so that a pixel of a map lies in the middle of those it was made
            of, where resizing and grid sampling look for it. The published networks' odd kernels move their maps by
            half a stride to the right and down, and the maps of flipped crops to the left: little in large maps, but
            half a pixel of eight in those of small images.
    """

    block: Literal["basic", "bottleneck"]
    layers: tuple[int, int, int, int]
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    strides: tuple[int, int, int, int] = (1, 2, 2, 2)
    stem_width: int = 0
    stem: Literal["imagenet", "small", "full"] = "imagenet"
    dilate_last: bool = False
    centred: bool = False

    @property
    def channels(self) -> tuple[int, ...]:
        """Return the channels of c1, c2, c3 and c4."""
        return tuple(width * BLOCKS[self.block].expansion for width in self.widths)

    @property
    def stride(self) -> int:
        """Return how many image pixels one pixel of c4 stands for, along each side."""
        stride = {"imagenet": 4, "small": 2, "full": 1}[self.stem]
        for stage_stride in self.strides[:3] if self.dilate_last else self.strides:
            stride *= stage_stride
        return stride


def resnet18() -> Architecture:
    """Return ResNet-18 (D32)."""
    return Architecture("basic", (2, 2, 2, 2))


def resnet50(*, d16: bool = False) -> Architecture:
    """Return ResNet-50; with `d16`, features of stride 16 by dilation in the last stage."""
    return Architecture("bottleneck", (3, 4, 6, 3), dilate_last=d16)


def resnet_tiny(
    *,
    widths: tuple[int, int, int, int] = (12, 24, 32, 24),
    layers: tuple[int, int, int, int] = (1, 1, 1, 1),
    strides: tuple[int, int, int, int] = (1, 2, 2, 1),
    stem_width: int = 32,
) -> Architecture:
    """Return a bottleneck net for images of about 64 px: 4x4 stem of stride 2 without a max-pool, centred strides.

    With the defaults c4 has stride 8 and sees 42 px. Two 3x3 convolutions a block would see the whole of so small an
    image, and features that see everything say nothing about a place.
    """
    return Architecture(
        "bottleneck", layers, widths=widths, strides=strides, stem_width=stem_width, stem="small", centred=True
    )


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": resnet18(),
    "resnet50": resnet50(),
    "resnet50-d16": resnet50(d16=True),
    "resnet-tiny": resnet_tiny(),
}


class ResNet(nn.Module):
    """A backbone: `stages` gives c1, c2, c3 and c4; subclasses add heads and a `forward`.

    The modules have torchvision's names (conv1, bn1, layer1 .. layer4), so its weights and the published checkpoints
    load by name. The models of this package are subclasses, which keeps those names free of a prefix.

    Args:
        architecture: layers and widths, e.g. `resnet18()`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self._stem_channels = architecture.stem_width or architecture.widths[0]
        kernel, stride = {"imagenet": (7, 2), "small": (3, 2), "full": (3, 1)}[architecture.stem]
        padding = kernel // 2
        if architecture.centred and stride == 2:
            kernel += 1
        self.conv1 = nn.Conv2d(3, self._stem_channels, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(self._stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if architecture.stem == "imagenet" else nn.Identity()
        self.layer1, self.layer2, self.layer3, self.layer4 = (self._stage(index) for index in range(4))
        initialise(self)

    @property
    def channels(self) -> tuple[int, ...]:
        """Return the channels of c1, c2, c3 and c4."""
        return self.architecture.channels

    @property
    def stride(self) -> int:
        """Return the stride of c4 in image pixels."""
        return self.architecture.stride

    def _stage(self, index: int) -> nn.Sequential:
        shape, block = self.architecture, BLOCKS[self.architecture.block]
        dilated = shape.dilate_last and index == 3
        stride = 1 if dilated else shape.strides[index]
        in_channels = shape.channels[index - 1] if index else self._stem_channels
        out_channels, width = shape.channels[index], shape.widths[index]
        centred = shape.centred and stride == 2
        downsample = None
        if stride != 1 or in_channels != out_channels:
            downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 2 if centred else 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        # As in torchvision, the first block of a dilated stage keeps the dilation of the stage before it.
        blocks = [block(in_channels, width, stride, downsample, kernel=4 if centred else 3)]
        blocks += [block(out_channels, width, dilation=2 if dilated else 1) for _ in range(1, shape.layers[index])]
        return nn.Sequential(*blocks)

    def stages(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return c1, c2, c3 and c4 of normalised images."""
        c1 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        c2 = self.layer2(c1)
        c3 = self.layer3(c2)
        return c1, c2, c3, self.layer4(c3)


def initialise(module: nn.Module) -> None:
    """Draw Kaiming normal (fan out) weights for a module's convolutions, with torch's global generator.

    Batch norms already start as the identity and linear layers keep torch's own start, as in the published code.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
