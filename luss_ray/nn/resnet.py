"""Residual networks with torchvision's layers and names, of any width, that give all four stages."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from luss_ray.nn.backbone import Maps
from luss_ray.nn.blocks import BasicBlock, Bottleneck

BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


@dataclass(frozen=True)
class ResNetArchitecture:
    """Shape of a residual network.

    Args:
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1 with four times the width at the end).
        num_blocks: of each stage.
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
    num_blocks: tuple[int, int, int, int]
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

    @property
    def last_norm(self) -> str | None:
        """Return None: c4 ends in an activation."""
        return None

    @property
    def about(self) -> str:
        """Return a few words for people."""
        return f"{self.block} blocks {'-'.join(map(str, self.num_blocks))} of {self.channels[3]} channels"

    def layers(self) -> dict[str, nn.Module]:
        """Return the layers under torchvision's names."""
        kernel, stride = {"imagenet": (7, 2), "small": (3, 2), "full": (3, 1)}[self.stem]
        padding = kernel // 2
        if self.centred and stride == 2:
            kernel += 1
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(3, self._stem_channels, kernel, stride, padding, bias=False),
            "bn1": nn.BatchNorm2d(self._stem_channels),
            "relu": nn.ReLU(inplace=True),
            "maxpool": nn.MaxPool2d(3, 2, 1) if self.stem == "imagenet" else nn.Identity(),
        }
        layers |= {f"layer{index + 1}": self._stage(index) for index in range(4)}
        for layer in layers.values():
            initialise(layer)
        return layers

    @property
    def _stem_channels(self) -> int:
        return self.stem_width or self.widths[0]

    def _stage(self, index: int) -> nn.Sequential:
        block = BLOCKS[self.block]
        dilated = self.dilate_last and index == 3
        stride = 1 if dilated else self.strides[index]
        in_channels = self.channels[index - 1] if index else self._stem_channels
        out_channels, width = self.channels[index], self.widths[index]
        centred = self.centred and stride == 2
        downsample = None
        if stride != 1 or in_channels != out_channels:
            downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 2 if centred else 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        # As in torchvision, the first block of a dilated stage keeps the dilation of the stage before it.
        blocks = [block(in_channels, width, stride, downsample, kernel=4 if centred else 3)]
        blocks += [block(out_channels, width, dilation=2 if dilated else 1) for _ in range(1, self.num_blocks[index])]
        return nn.Sequential(*blocks)

    def stages(self, network: nn.Module, images: Float[Tensor, "B 3 H W"]) -> Maps:
        """Return c1, c2, c3 and c4 of normalised images."""
        features = images
        for name in ("conv1", "bn1", "relu", "maxpool"):
            features = network.get_submodule(name)(features)
        c1 = network.get_submodule("layer1")(features)
        c2 = network.get_submodule("layer2")(c1)
        c3 = network.get_submodule("layer3")(c2)
        return c1, c2, c3, network.get_submodule("layer4")(c3)


def resnet18() -> ResNetArchitecture:
    """Return ResNet-18 (D32)."""
    return ResNetArchitecture("basic", (2, 2, 2, 2))


def resnet50(*, d16: bool = False) -> ResNetArchitecture:
    """Return ResNet-50; with `d16`, features of stride 16 by dilation in the last stage."""
    return ResNetArchitecture("bottleneck", (3, 4, 6, 3), dilate_last=d16)


def resnet_tiny(
    *,
    widths: tuple[int, int, int, int] = (12, 24, 32, 24),
    num_blocks: tuple[int, int, int, int] = (1, 1, 1, 1),
    strides: tuple[int, int, int, int] = (1, 2, 2, 1),
    stem_width: int = 32,
) -> ResNetArchitecture:
    """Return a bottleneck net for images of about 64 px: 4x4 stem of stride 2 without a max-pool, centred strides.

    With the defaults c4 has stride 8 and sees 42 px. Two 3x3 convolutions a block would see the whole of so small an
    image, and features that see everything say nothing about a place.
    """
    return ResNetArchitecture(
        "bottleneck", num_blocks, widths=widths, strides=strides, stem_width=stem_width, stem="small", centred=True
    )


ARCHITECTURES: dict[str, ResNetArchitecture] = {
    "resnet18": resnet18(),
    "resnet50": resnet50(),
    "resnet50-d16": resnet50(d16=True),
}


def initialise(module: nn.Module) -> None:
    """Draw Kaiming normal (fan out) weights for a module's convolutions, with torch's global generator.

    Batch norms already start as the identity and linear layers keep torch's own start, as in the published code.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
