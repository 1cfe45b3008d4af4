"""Step 1: swapped prediction, pixel-to-pixel alignment, deep-to-shallow supervision (arXiv 2106.03149, section 4)."""

import numpy as np
import torch
from torch import Tensor, nn

from luss_ray.config.recipe import Recipe
from luss_ray.data.grid import pair_grid
from luss_ray.losses.deep_to_shallow import deep_to_shallow_loss
from luss_ray.losses.pixel_to_pixel import pixel_to_pixel_loss
from luss_ray.losses.swav import swap_loss, weighted_mean
from luss_ray.nn.backbone import on_device
from luss_ray.nn.batch_norm import convert
from luss_ray.nn.models import PretrainModel, PretrainOutput
from luss_ray.train.optimiser import make_optimiser
from luss_ray.train.swapped import CodeBook, of_ln_k
from luss_ray.train.views import coloured_crops, crops_of


def pretrain_model(recipe: Recipe) -> PretrainModel:
    """Return the network of step 1 with its random start, a function of the seed."""
    torch.manual_seed(recipe.seed)
    prototypes = recipe.prototypes
    return PretrainModel(
        recipe.backbone.architecture(),
        hidden=prototypes.hidden,
        num_prototypes=prototypes.num,
        embedding_dim=prototypes.embedding_dim,
        shallow_stages=recipe.pretrain.shallow_stages,
    )


class Pretrainee:
    """The network of step 1 while it learns."""

    def __init__(self, recipe: Recipe, code_book: CodeBook) -> None:
        self.settings, self.seed, self.code_book = recipe.pretrain, recipe.seed, code_book
        self.network = on_device(convert(pretrain_model(recipe)), code_book.world.device).train()
        assert isinstance(self.network, PretrainModel)
        if self.settings.pixel_to_pixel == 0:
            self.network.leave_out_pixel_heads()
        self.prototypes = self.network.prototypes
        self.optimiser = make_optimiser(self.network, self.settings.optimisation)

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch with its crops coloured, and the `grids` that pixels are compared on."""
        made = batch | coloured_crops(batch, self.settings.crops, self.seed)
        if self.settings.pixel_to_pixel:
            geometry = batch["geometry"].numpy()
            grids = pair_grid(geometry[:, 0], geometry[:, 1], self.settings.grid)
            made["grids"] = torch.from_numpy(np.stack(grids)).to(self.code_book.world.device, non_blocking=True)
        return made

    def losses(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return `loss` and its parts."""
        self.prototypes.normalise_()
        output: PretrainOutput = network(crops_of(batch, self.settings.crops), batch.get("grids"))
        codes, figures = self.code_book.codes(output.embeddings, self.prototypes, step)
        temperature = self.code_book.settings.temperature
        image = swap_loss(output.scores, codes, temperature=temperature)
        shallow = [deep_to_shallow_loss(scores, codes, temperature=temperature) for scores in output.shallow_scores]
        parts = {"i2i": image} | {
            f"d2s_{stage}": loss for stage, loss in zip(self.settings.shallow_stages, shallow, strict=True)
        }
        total = weighted_mean(image, shallow, [1.0] * (1 + len(shallow)))
        if output.predictions is not None and output.projections is not None:
            parts["p2p"] = pixel_to_pixel_loss(output.predictions, output.projections)
            total = total + self.settings.pixel_to_pixel * parts["p2p"]
        return {"loss": total} | parts | figures | of_ln_k(image, codes.shape[-1])

    def before_update(self, step: int) -> None:
        """Keep the prototypes where they are during the first steps."""
        if step < self.settings.frozen_prototype_steps:
            self.prototypes.freeze_gradient()

    def state(self) -> dict[str, Tensor]:
        """Return the queue."""
        return self.code_book.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the queue back."""
        self.code_book.load_state(state)
