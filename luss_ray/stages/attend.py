"""Steps 2.3 and 2.4, per image: cluster of every pixel and attention of every pixel."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt16
from torch import Tensor

from luss_ray.config.recipe import Recipe
from luss_ray.nn.models import PixelAttentionModel
from luss_ray.stages.extract import load_attention_model
from luss_ray.storage.uri import Location


@dataclass(frozen=True)
class Attender:
    """The network of step 2 with the centroids, on a device."""

    network: PixelAttentionModel
    directions: Tensor
    """Centroids (k, C) of length 1."""

    @classmethod
    def load(cls, recipe: Recipe, weights: Location, centroids: np.ndarray, device: torch.device) -> "Attender":
        """Return it, ready for inference."""
        directions = F.normalize(torch.from_numpy(centroids), dim=1)
        return cls(load_attention_model(recipe, weights, device), directions.to(device))

    def maps(self, batch: Tensor, sizes: list[tuple[int, int]]) -> list["Maps"]:
        """Return the maps of each image of a batch at its own (height, width).

        Labels are found at four times the features' resolution and taken from the nearest; attention is the mean over
        channels, resized bilinearly.
        """
        features, attention = self.network.attend(batch)
        # The length of a feature doesn't change which centroid has the largest cosine.
        labels = torch.einsum("bchw,kc->bkhw", features, self.directions).argmax(dim=1)[:, None] + 1
        means = attention.mean(dim=1, keepdim=True)
        return [
            Maps(
                F.interpolate(labels[i : i + 1].float(), size, mode="nearest")[0, 0].to(torch.int32).cpu().numpy(),
                F.interpolate(means[i : i + 1], size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy(),
            )
            for i, size in enumerate(sizes)
        ]


class Maps(NamedTuple):
    """What step 2 says of one image."""

    clusters: np.ndarray
    """Cluster of each pixel, 1 .. k, (H, W) int32."""
    attention: Float32[np.ndarray, "H W"]

    def pseudo_label(self, threshold: float) -> UInt16[np.ndarray, "H W"]:
        """Return the clusters with 0 ("other") where attention is below the threshold, compared in float32."""
        return np.where(self.attention < np.float32(threshold), 0, self.clusters).astype(np.uint16)
