"""Step 3: backbone and a per-pixel classifier learn the pseudo-labels (arXiv 2106.03149, section 4)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from luss_ray.config.recipe import Finetune, Recipe
from luss_ray.core.errors import BadSampleError
from luss_ray.data.augment import normalise
from luss_ray.data.crops import DRAWS_PER_CROP, CropSpec, paired_crop
from luss_ray.data.decode import decode_image
from luss_ray.imagenet_s.soft_label import SoftLabel
from luss_ray.losses.segmentation import segmentation_loss
from luss_ray.nn.batch_norm import convert
from luss_ray.nn.checkpoint import load_backbone
from luss_ray.nn.models import SegmentationModel
from luss_ray.train.swapped import make_optimiser, on_device
from luss_ray.train.trainee import World


def segmentation_model(recipe: Recipe, num_clusters: int) -> SegmentationModel:
    """Return the network of step 3 with random weights."""
    torch.manual_seed(recipe.seed)
    return SegmentationModel(recipe.backbone.architecture(), num_categories=num_clusters)


@dataclass(frozen=True)
class PairedCrop:
    """Cuts one crop from image and label together; runs in the loaders."""

    settings: Finetune
    threshold: float
    """Attention below which a pixel is "other"."""
    num_uniforms: int = DRAWS_PER_CROP

    def __call__(self, image: bytes, label: bytes | None, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Return `crop` uint8 (H, W, 3) and `label` uint16 (H, W): clusters 1 .. k, 0 = other.

        Args:
            image: encoded.
            label: encoded `SoftLabel` of it.
            draws: `num_uniforms` numbers in [0, 1).

        Raises:
            BadSampleError: either can't be read, or there is no label.
        """
        if label is None:
            raise BadSampleError("no label")
        spec = CropSpec(num=1, size_px=self.settings.crop_px, scale=self.settings.scale)
        pixels, soft = decode_image(image), SoftLabel.decode(label)
        height, width = pixels.shape[:2]

        def label_at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            return soft.at(rows, columns, height=height, width=width).pseudo_label(self.threshold)

        crop, labels = paired_crop(pixels, label_at, spec, draws)
        return {"crop": crop, "label": labels}


class FinetuneTrainee:
    """The network of step 3 while it learns."""

    def __init__(self, recipe: Recipe, weights: dict[str, Tensor], num_clusters: int, world: World) -> None:
        model = segmentation_model(recipe, num_clusters)
        load_backbone(weights, model)
        self.network = on_device(convert(model), world.device)
        assert isinstance(self.network, SegmentationModel)
        if recipe.finetune.freeze_backbone:
            self.network.freeze_backbone()
        self.optimiser = make_optimiser(self.network, recipe.finetune.optimisation)

    def losses(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return `loss`: cross-entropy of the pseudo-labels."""
        images = normalise(batch["crop"]).contiguous(memory_format=torch.channels_last)
        return {"loss": segmentation_loss(network(images), batch["label"].long())}

    def before_update(self, step: int) -> None:
        """Leave the gradients as they are."""

    def state(self) -> dict[str, Tensor]:
        """Return nothing: weights and optimiser are all there is."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take nothing back."""
