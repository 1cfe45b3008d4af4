"""Steps 2.3 and 2.4, per image: cluster of every pixel and attention of every pixel."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from luss_ray.clustering.assign import Clusters
from luss_ray.config.recipe import Labels, Recipe
from luss_ray.imagenet_s.soft_label import LEVELS, Maps, SoftLabel
from luss_ray.nn.heads import upsample
from luss_ray.nn.models import PixelAttentionModel, describe
from luss_ray.stages.extract import attention_maps, load_attention_model
from luss_ray.storage.uri import Location


@dataclass(frozen=True)
class Attender:
    """The network of step 2 with the centroids, on a device."""

    network: PixelAttentionModel
    directions: Tensor
    """Centroids (M, C) of length 1."""
    clusters: Tensor
    """Cluster of each centroid, 1 .. k (M,)."""
    settings: Labels = field(default_factory=Labels)
    """What is decided beyond the published way."""

    @classmethod
    def load(cls, recipe: Recipe, weights: Location, clusters: Clusters, device: torch.device) -> "Attender":
        """Return it, ready for inference."""
        directions = F.normalize(torch.from_numpy(clusters.centroids), dim=1).to(device)
        numbers = torch.from_numpy(clusters.clusters + 1).to(device)
        return cls(load_attention_model(recipe, weights, device), directions, numbers, recipe.labels)

    def soft_labels(self, batch: Tensor) -> list[SoftLabel]:
        """Return what is stored of each image of a normalised batch (n, 3, H, W)."""
        clusters, attention = self._decide(batch)
        levels = (attention * (LEVELS - 1)).round().to(torch.uint8).cpu().numpy()
        return list(map(SoftLabel, clusters.to(torch.int32).cpu().numpy().astype(np.uint16), levels))

    def maps(self, batch: Tensor, sizes: list[tuple[int, int]]) -> list[Maps]:
        """Return the maps of each image of a batch at its own (height, width).

        Labels are taken from the nearest pixel of the feature map, attention is resized bilinearly.
        """
        clusters, attention = (maps[:, None] for maps in self._decide(batch))
        return [
            Maps(
                F.interpolate(clusters[i : i + 1].float(), size, mode="nearest")[0, 0].to(torch.int32).cpu().numpy(),
                F.interpolate(attention[i : i + 1], size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy(),
            )
            for i, size in enumerate(sizes)
        ]

    def _decide(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return cluster, 1 .. k, and mean attention over channels: (n, h, w) at 4 times the features' resolution."""
        coarse = self.network.stages(batch)[3]
        features, attention = self.network.attend_to(coarse)
        # Products before upsampling are those after it, both being linear, and have a 16th of the pixels.
        cosines = upsample(torch.einsum("bchw,mc->bmhw", coarse.float(), self.directions))
        # The length of a feature doesn't change which centroid has the largest cosine, unless something is added.
        if weight := self.settings.image_prior:
            of_image = describe(features, attention) @ self.directions.T
            lengths = features.norm(dim=1, keepdim=True).clamp_min(1e-12)
            cosines = cosines / lengths + weight * of_image[:, :, None, None]
        return self.clusters[cosines.argmax(dim=1)], attention_maps(attention, self.settings)
