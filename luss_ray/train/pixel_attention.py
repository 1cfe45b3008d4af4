"""Step 2.1: an attention over pixels learns on the frozen backbone (arXiv 2106.03149, section 4)."""

import torch
from torch import Tensor, nn

from luss_ray.config.recipe import Recipe
from luss_ray.losses.swav import swap_loss
from luss_ray.nn.backbone import on_device
from luss_ray.nn.batch_norm import convert
from luss_ray.nn.checkpoint import PROJECTION_HEAD, load_backbone
from luss_ray.nn.models import PixelAttentionModel
from luss_ray.train.optimiser import make_optimiser
from luss_ray.train.swapped import CodeBook, of_ln_k
from luss_ray.train.views import coloured_crops, crops_of


def pixel_attention_model(recipe: Recipe) -> PixelAttentionModel:
    """Return the network of step 2 with random weights."""
    torch.manual_seed(recipe.seed)
    prototypes = recipe.prototypes
    return PixelAttentionModel(
        recipe.backbone.architecture(),
        hidden=prototypes.hidden,
        num_prototypes=prototypes.num,
        embedding_dim=prototypes.embedding_dim,
        attentive=recipe.attention.enabled,
    )


class PixelAttentionTrainee:
    """The network of step 2 while it learns."""

    def __init__(self, recipe: Recipe, weights: dict[str, Tensor], code_book: CodeBook) -> None:
        self.settings, self.seed, self.code_book = recipe.attention, recipe.seed + 1, code_book
        model = pixel_attention_model(recipe)
        copied = load_backbone(weights, model)
        if not any(name.startswith(PROJECTION_HEAD) for name in copied):
            model.projection_head.requires_grad_(True)  # a backbone from elsewhere brings none that has learnt
        self.network = on_device(convert(model), code_book.world.device).train()
        assert isinstance(self.network, PixelAttentionModel)
        self.prototypes = self.network.prototypes
        self.optimiser = make_optimiser(self.network, self.settings.optimisation)

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch with its crops coloured."""
        return batch | coloured_crops(batch, self.settings.crops, self.seed)

    def losses(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return `loss`: swapped prediction of attention-weighted embeddings."""
        self.prototypes.normalise_()
        embeddings, scores = network(crops_of(batch, self.settings.crops))
        codes, figures = self.code_book.codes(embeddings, self.prototypes, step)
        loss = swap_loss(scores, codes, temperature=self.code_book.settings.temperature)
        return {"loss": loss} | figures | of_ln_k(loss, codes.shape[-1])

    def before_update(self, step: int) -> None:
        """Leave the gradients as they are; no prototypes are frozen here."""

    def state(self) -> dict[str, Tensor]:
        """Return the queue."""
        return self.code_book.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the queue back."""
        self.code_book.load_state(state)
