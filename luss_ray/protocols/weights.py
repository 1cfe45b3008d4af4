"""Weights that a user brings along: which they are, whether the protocol allows them, whether they fit the backbone."""

import functools
from dataclasses import dataclass

from torch import Tensor

from luss_ray.config.recipe import Recipe
from luss_ray.core.errors import UserError
from luss_ray.nn.checkpoint import load_backbone, load_segmentation
from luss_ray.nn.rf_next import RFNextArchitecture
from luss_ray.nn.weights import WeightsFile
from luss_ray.protocols.rules import ANNOTATED, Protocol, check_weights
from luss_ray.report.collect import RESULT
from luss_ray.stages.run import BEGUN, RUN, STAGE, read_origin
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location
from luss_ray.train.finetune import segmentation_model
from luss_ray.train.pixel_attention import pixel_attention_model

PRETRAINED, FINETUNED = "pretrain/weights.safetensors", "finetune/weights.safetensors"
_WITHOUT_MASKS = (Protocol.UNSUPERVISED, Protocol.DISTANCE_MATCHING)
"""Protocols whose weights have learnt from no mask."""


@dataclass(frozen=True)
class GivenWeights:
    """Weights that a user named."""

    file: WeightsFile
    trained_by: str
    """What is known of their training."""

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the file."""
        return self.file.sha256()

    def about(self) -> dict[str, str]:
        """Return what results say of them."""
        return {"uri": self.file.location.uri, "trained_by": self.trained_by, "sha256": self.sha256}


def find_weights(text: str, data: ShardedDataset, protocol: Protocol) -> GivenWeights:
    """Return the weights that a user named: of a run of jobs/finetune.py the fine-tuned, of any other the pretrained.

    Args:
        text: a run's folder or a weights file.
        data: what they are to be used on.
        protocol: the rules they must keep.

    Raises:
        UserError: the protocol does not allow them, or they are still being fine-tuned.
    """
    location = Location.parse(text)
    if not location.exists(RUN):
        return GivenWeights(WeightsFile(location), "a file; on what it was trained is not known here")
    check_weights(protocol, read_origin(location), data)
    if not is_fine_tuning(location):
        return GivenWeights(WeightsFile(location / PRETRAINED), f"run {location.uri}")
    if protocol in _WITHOUT_MASKS:
        raise UserError(
            f"{location.uri} is fine-tuned on masks, which the protocol {protocol.value} does not allow: give weights "
            f"that saw none, or choose the protocol {Protocol.FREE.value}"
        )
    if not location.exists(f"finetune/{STAGE}"):
        raise UserError(
            f"{location.uri} is not fine-tuned yet: run jobs/finetune.py again, it goes on where it stopped"
        )
    return GivenWeights(WeightsFile(location / FINETUNED), f"run {location.uri}, fine-tuned on masks of {ANNOTATED}")


def is_fine_tuning(run: Location) -> bool:
    """Return whether a run is one of jobs/finetune.py, which makes a fine-tuned network of weights that were brought.

    Args:
        run: its folder. It has said so once it is finished; before, it fine-tunes without an attention.
    """
    if run.exists(RESULT) and "trained" in run.read_json(RESULT):
        return True
    return any(run.exists(f"finetune/{name}") for name in (BEGUN, STAGE)) and not run.exists(f"attention/{STAGE}")


def weights_to_start_from(recipe: Recipe, given: GivenWeights) -> dict[str, Tensor]:
    """Return the backbone's entries, and those of the projection head and the prototypes where the weights have them.

    Raises:
        UserError: they are of another architecture, or there are none.
    """
    model, read = pixel_attention_model(recipe), given.file()
    try:
        if isinstance(model.architecture, RFNextArchitecture):
            read = model.architecture.begin(read)
        copied = load_backbone(read, model)
    except UserError as error:
        raise UserError(f"{given.file.location.uri}: {error}") from None
    state = model.state_dict()
    return {name: state[name].contiguous() for name in copied}


def trained_weights(recipe: Recipe, given: GivenWeights, num_categories: int) -> dict[str, Tensor]:
    """Return the entries of a fine-tuned network under this package's names.

    Raises:
        UserError: they are of another recipe, or of other categories.
    """
    model = segmentation_model(recipe, num_categories)
    try:
        load_segmentation(given.file(), model)
    except UserError as error:
        raise UserError(f"{given.file.location.uri}: {error}") from None
    return {name: value.contiguous() for name, value in model.state_dict().items()}
