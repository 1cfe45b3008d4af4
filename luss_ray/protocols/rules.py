"""The benchmark's protocols, and which weights each of them allows."""

import enum

from luss_ray.core.errors import UserError
from luss_ray.stages.run import Origin
from luss_ray.storage.dataset import ShardedDataset

ALL_OF_IMAGENET = "train-full"
ANNOTATED = "train-semi"
_LARGEST = 919


class Protocol(enum.Enum):
    """What a result may have been trained on. Source: ImageNet-S (arXiv 2106.03149), evaluation protocols."""

    UNSUPERVISED = "fully-unsupervised"
    """The subset's own training images, no labels; clusters are matched on validation."""
    DISTANCE_MATCHING = "distance-matching"
    """The subset's own training images; the masks of train-semi serve as references."""
    SEMI_SUPERVISED = "semi-supervised"
    """The subset's own training images, fine-tuned on the masks of train-semi."""
    FREE = "free"
    """Anything but the masks of validation and test."""


def check_split(protocol: Protocol, split: str, data: ShardedDataset) -> None:
    """Return when a protocol allows pretraining on a split.

    Raises:
        UserError: it doesn't: only S919 may be pretrained on all of ImageNet.
    """
    if protocol is not Protocol.FREE and split == ALL_OF_IMAGENET and len(data.categories) != _LARGEST:
        raise UserError(
            f"pretraining on {split} is not allowed for {len(data.categories)} categories in the protocol "
            f"{protocol.value}: pretrain on train, or choose the protocol {Protocol.FREE.value}"
        )


def check_weights(protocol: Protocol, origin: Origin, data: ShardedDataset) -> None:
    """Return when a protocol allows the weights of a run for a dataset.

    Args:
        protocol: the rules.
        origin: what made the weights.
        data: what they are to be used on.

    Raises:
        UserError: they were trained on other data; the message says on which.
    """
    if protocol is Protocol.FREE:
        return
    if origin.data_digest != data.digest:
        raise UserError(
            f"the weights were trained on {origin.data_uri}, not on {data.location.uri}, which the protocol "
            f"{protocol.value} does not allow: train on this dataset, or choose the protocol {Protocol.FREE.value}"
        )
    check_split(protocol, origin.recipe.pretrain.split, data)
