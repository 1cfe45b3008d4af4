"""Step 3: backbone and a per-pixel classifier learn pixel labels (arXiv 2106.03149, section 4)."""

import torch
from torch import Tensor, nn

from luss_ray.config.recipe import Recipe
from luss_ray.core.seeds import COLOURS, DROP_PATH, generator, uniforms
from luss_ray.data.augment import augment, normalise
from luss_ray.data.colour import COLOUR_DRAWS, draw_colour
from luss_ray.data.plan import Plan
from luss_ray.imagenet_s.masks import IGNORE
from luss_ray.losses.segmentation import segmentation_loss
from luss_ray.nn.backbone import on_device
from luss_ray.nn.batch_norm import convert
from luss_ray.nn.checkpoint import load_backbone
from luss_ray.nn.models import SegmentationModel
from luss_ray.nn.rf_next import RFMode, RFNextArchitecture, rf_convolutions
from luss_ray.train.optimiser import make_optimiser
from luss_ray.train.trainee import World


def segmentation_model(recipe: Recipe, num_categories: int) -> SegmentationModel:
    """Return the network of step 3 with random weights."""
    torch.manual_seed(recipe.seed)
    architecture, head = recipe.backbone.architecture(), recipe.finetune.head
    return SegmentationModel(architecture, num_categories=num_categories, head=head)


class FinetuneTrainee:
    """The network of step 3 while it learns.

    Args:
        recipe: backbone and optimisation.
        weights: of the backbone.
        num_categories: clusters or categories beside "other".
        plan: of the stage, which says where epochs begin.
        world: this worker.
        annotated: the labels are true masks, whose ignored pixels are left out of the loss.
    """

    def __init__(
        self,
        recipe: Recipe,
        weights: dict[str, Tensor],
        num_categories: int,
        plan: Plan,
        world: World,
        *,
        annotated: bool = False,
    ) -> None:
        model, self.recipe, self.rank = segmentation_model(recipe, num_categories), recipe, world.rank
        load_backbone(weights, model)
        self.ignore = IGNORE if annotated else None
        self.network = on_device(convert(model), world.device).train()
        assert isinstance(self.network, SegmentationModel)
        architecture, self.searching = self.network.architecture, []
        if isinstance(architecture, RFNextArchitecture):
            architecture.freeze(self.network)
            if architecture.mode is RFMode.SEARCH:
                self.searching = rf_convolutions(self.network)
        if recipe.finetune.freeze_backbone:
            self.network.freeze_backbone()
        self.optimiser = make_optimiser(self.network, recipe.finetune.optimisation)
        search = recipe.finetune.search
        epochs = [search.every_epochs * (number + 1) for number in range(search.times)]
        self.search_steps = {epoch * plan.num_rows // plan.global_batch for epoch in epochs}

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch with its crops coloured."""
        return batch | {"crop": self._coloured(batch)}

    def losses(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return `loss`: cross-entropy of the labels; and `dilation`, the mean of those being searched."""
        settings = self.recipe.finetune
        if self.searching and step in self.search_steps:
            for convolution in self.searching:
                convolution.search()
        if self.recipe.backbone.drop_path:
            torch.manual_seed(int(generator(self.recipe.seed, DROP_PATH, step, self.rank).integers(2**63)))
        logits = network(batch["crop"])
        labels = batch["label"].long()
        loss = segmentation_loss(logits, labels, ignore=self.ignore, upsampling=settings.loss_upsampling)
        if not self.searching:
            return {"loss": loss}
        dilations = [dilation for convolution in self.searching for dilation in convolution.dilations]
        return {"loss": loss, "dilation": loss.new_tensor(sum(dilations) / len(dilations))}

    def _coloured(self, batch: dict[str, Tensor]) -> Tensor:
        colour, crops = self.recipe.finetune.colour, batch["crop"]
        if not colour.changes:
            return normalise(crops, colour.mean, colour.std)
        seed = self.recipe.seed + 2
        draws = uniforms(seed, COLOURS, batch["epoch"].tolist(), batch["row"].tolist(), COLOUR_DRAWS)
        return augment(crops, draw_colour(draws, colour), colour)

    def before_update(self, step: int) -> None:
        """Leave the gradients as they are."""

    def state(self) -> dict[str, Tensor]:
        """Return nothing: weights and optimiser are all there is."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take nothing back."""
