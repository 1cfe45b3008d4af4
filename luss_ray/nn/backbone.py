"""What a network is built on: any architecture that gives maps of four stages."""

from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Maps = tuple[Tensor, Tensor, Tensor, Tensor]
Network = TypeVar("Network", bound=nn.Module)


@runtime_checkable
class Architecture(Protocol):
    """Shape of a backbone: a small value, from which its layers are made and which knows how images go through them."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of c1, c2, c3 and c4."""
        ...

    @property
    def stride(self) -> int:
        """How many image pixels one pixel of c4 stands for, along each side."""
        ...

    @property
    def last_norm(self) -> str | None:
        """Name of the norm that c4 has gone through at last; None where there is none."""
        ...

    @property
    def about(self) -> str:
        """A few words for people."""
        ...

    def layers(self) -> dict[str, nn.Module]:
        """Return the layers by name, with fresh weights of torch's global generator."""
        ...

    def stages(self, network: nn.Module, images: Float[Tensor, "B 3 H W"]) -> Maps:
        """Return c1, c2, c3 and c4 of images normalised by ImageNet's mean and deviation.

        Args:
            network: has the layers under their names.
            images: pixels.
        """
        ...


class Backbone(nn.Module):
    """A backbone: `stages` gives c1, c2, c3 and c4; subclasses add heads and a `forward`.

    The layers lie beside the heads, without a prefix of their own: a ResNet's have torchvision's names (conv1, bn1,
    layer1 .. layer4), so its weights and the published checkpoints load by name.

    Args:
        architecture: the layers, e.g. `resnet18()`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        for name, layer in architecture.layers().items():
            self.add_module(name, layer)
        self.layer_names = tuple(name for name, _ in self.named_children())
        """Of the backbone, without heads."""
        self.starts_anew: str | None = None
        """Name of a layer of the backbone that takes no weights over."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Return the channels of c1, c2, c3 and c4."""
        return self.architecture.channels

    @property
    def stride(self) -> int:
        """Return the stride of c4 in image pixels."""
        return self.architecture.stride

    def stages(self, images: Float[Tensor, "B 3 H W"]) -> Maps:
        """Return c1, c2, c3 and c4 of normalised images."""
        return self.architecture.stages(self, images)

    def freeze_backbone(self) -> None:
        """Take the backbone's layers out of training: no gradients, and batch norms keep their statistics."""
        for name in self.layer_names:
            self.get_submodule(name).requires_grad_(False).eval()


def on_device(network: Network, device: torch.device | str) -> Network:
    """Return the network on the device, its weights in the memory order that convolutions want."""
    return network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
