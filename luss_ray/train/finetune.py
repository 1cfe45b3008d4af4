"""Step 3: backbone and a per-pixel classifier learn pixel labels (arXiv 2106.03149, section 4)."""

import torch
from torch import Tensor, nn

from luss_ray.config.recipe import Recipe
from luss_ray.data.augment import normalise
from luss_ray.imagenet_s.masks import IGNORE
from luss_ray.losses.segmentation import segmentation_loss
from luss_ray.nn.batch_norm import convert
from luss_ray.nn.checkpoint import load_backbone
from luss_ray.nn.models import SegmentationModel
from luss_ray.train.swapped import make_optimiser, on_device
from luss_ray.train.trainee import World


def segmentation_model(recipe: Recipe, num_categories: int) -> SegmentationModel:
    """Return the network of step 3 with random weights."""
    torch.manual_seed(recipe.seed)
    return SegmentationModel(recipe.backbone.architecture(), num_categories=num_categories)


class FinetuneTrainee:
    """The network of step 3 while it learns.

    Args:
        recipe: backbone and optimisation.
        weights: of the backbone.
        num_categories: clusters or categories beside "other".
        world: this worker.
        annotated: the labels are true masks, whose ignored pixels are left out of the loss.
    """

    def __init__(
        self, recipe: Recipe, weights: dict[str, Tensor], num_categories: int, world: World, *, annotated: bool = False
    ) -> None:
        model = segmentation_model(recipe, num_categories)
        load_backbone(weights, model)
        self.ignore = IGNORE if annotated else None
        self.network = on_device(convert(model), world.device)
        assert isinstance(self.network, SegmentationModel)
        if recipe.finetune.freeze_backbone:
            self.network.freeze_backbone()
        self.optimiser = make_optimiser(self.network, recipe.finetune.optimisation)

    def losses(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return `loss`: cross-entropy of the labels."""
        images = normalise(batch["crop"]).contiguous(memory_format=torch.channels_last)
        return {"loss": segmentation_loss(network(images), batch["label"].long(), ignore=self.ignore)}

    def before_update(self, step: int) -> None:
        """Leave the gradients as they are."""

    def state(self) -> dict[str, Tensor]:
        """Return nothing: weights and optimiser are all there is."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take nothing back."""
