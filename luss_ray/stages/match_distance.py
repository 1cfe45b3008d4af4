"""Distance matching: pixels get the category of the nearest annotated regions in a backbone's feature space."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt16
from torch import Tensor

from luss_ray.imagenet_s import masks
from luss_ray.metrics.neighbours import knn_predict
from luss_ray.nn.backbone import Architecture, Backbone
from luss_ray.nn.checkpoint import load_backbone
from luss_ray.nn.folding import for_inference
from luss_ray.nn.heads import upsample
from luss_ray.stages.shards import decoded_mask, read_shard
from luss_ray.storage.dataset import Split
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.uri import Location

NEIGHBOURS, TEMPERATURE = 10, 0.07


@dataclass(frozen=True, kw_only=True)
class Features:
    """A backbone, and the size at which it sees images."""

    architecture: Architecture
    read_weights: Callable[[], dict[str, Tensor]]
    """Returns the state dict; picklable."""
    shorter_side_px: int

    def load(self, device: torch.device) -> Backbone:
        """Return the backbone, ready for inference."""
        backbone = Backbone(self.architecture)
        load_backbone(self.read_weights(), backbone)
        return for_inference(backbone, device)


def pixel_features(backbone: Backbone, batch: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
    """Return c4 at four times its resolution."""
    return upsample(backbone.stages(batch)[3]).float()


def reference_vectors(
    features: Float[Tensor, "C h w"], mask: UInt16[np.ndarray, "H W"]
) -> tuple[Int64[np.ndarray, " R"], Float[np.ndarray, "R C"]]:
    """Return a vector of length 1 for each category of a mask, other included: the mean of its pixels' features.

    Args:
        features: of the image.
        mask: its ground truth; ignored pixels are left out. It is taken at the features' resolution (nearest), at which
            a category of few pixels may vanish.

    Source: ImageNet-S (arXiv 2106.03149), distance matching.
    """
    ids = torch.from_numpy(mask.astype(np.int64)).to(features.device)
    ids = F.interpolate(ids[None, None].float(), features.shape[1:], mode="nearest")[0, 0].long()
    present = [int(category) for category in ids.unique() if category != masks.IGNORE]
    sums = torch.stack([(features * (ids == category)).sum(dim=(1, 2)) for category in present]) if present else None
    vectors = np.zeros((0, len(features)), np.float32) if sums is None else F.normalize(sums, dim=1).cpu().numpy()
    return np.array(present, np.int64), vectors


@dataclass(frozen=True, kw_only=True)
class ReferenceWork:
    """Finds the reference vectors of a shard's annotated images."""

    split: Split
    features: Features
    folder: Location

    def load(self, device: torch.device) -> Backbone:
        """Return the backbone."""
        return self.features.load(device)

    def process(self, shard: int, network: Backbone, device: torch.device) -> list[str]:
        """Publish `labels` (R,) and `vectors` (R, C) of the shard, in the order of its samples."""
        whole, rows = read_shard(self.split, shard, self.features.shorter_side_px), self.split.shard_rows(shard)
        truth = dict(zip(rows.tolist(), self.split.read_masks(rows), strict=True))
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for images, batch in whole.batches(device):
            for image, features in zip(images, pixel_features(network, batch), strict=True):
                if (mask := truth[image.row]) is not None:
                    found[image.row] = reference_vectors(features, decoded_mask(self.split, image.row, mask))
        ordered = [found[row] for row in sorted(found)]
        buffer = io.BytesIO()
        np.savez(
            buffer,
            labels=np.concatenate([labels for labels, _ in ordered] or [np.zeros(0, np.int64)]),
            vectors=np.concatenate([vectors for _, vectors in ordered] or [np.zeros((0, network.channels[3]))]),
        )
        self.folder.create(reference_file(self.split, shard), buffer.getvalue())
        return whole.bad


def reference_file(split: Split, shard: int) -> str:
    """Return the name of a shard's reference vectors below the stage's folder."""
    return split.shards[shard].removesuffix(".tar") + ".npz"


def read_references(folder: Location, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (R,) and vectors (R, C) of all shards, in their order."""
    parts = []
    for shard in range(len(split.shards)):
        with np.load(io.BytesIO(folder.read(reference_file(split, shard))), allow_pickle=False) as arrays:
            parts.append((arrays["labels"], arrays["vectors"].astype(np.float32)))
    return np.concatenate([labels for labels, _ in parts]), np.concatenate([vectors for _, vectors in parts])


@dataclass(frozen=True, kw_only=True)
class NearestWork:
    """Gives each pixel of a shard's images the category of its nearest references."""

    split: Split
    features: Features
    labels: np.ndarray
    vectors: np.ndarray
    predictions: LabelShards

    def load(self, device: torch.device) -> tuple[Backbone, Tensor, Tensor]:
        """Return backbone and references."""
        references = torch.from_numpy(self.vectors).to(device), torch.from_numpy(self.labels).to(device)
        return self.features.load(device), *references

    def process(self, shard: int, network: tuple[Backbone, Tensor, Tensor], device: torch.device) -> list[str]:
        """Publish the shard's predictions."""
        backbone, vectors, labels = network
        whole = read_shard(self.split, shard, self.features.shorter_side_px)
        encoded: dict[int, bytes] = {}
        for images, batch in whole.batches(device):
            for image, features in zip(images, pixel_features(backbone, batch), strict=True):
                pixels = F.normalize(features.flatten(1).T, dim=1)
                ids = knn_predict(vectors, labels, pixels, k=NEIGHBOURS, temperature=TEMPERATURE)
                grid = ids.view(1, 1, *features.shape[1:]).float()
                whole_size = F.interpolate(grid, (image.height, image.width), mode="nearest")[0, 0]
                encoded[image.row] = masks.encode(whole_size.to(torch.int32).cpu().numpy().astype(np.uint16))
        self.predictions.publish(shard, [encoded.get(row) for row in self.split.shard_rows(shard).tolist()])
        return whole.bad
