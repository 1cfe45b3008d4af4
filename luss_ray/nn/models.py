"""The three models of the method: pretraining, pixel attention and segmentation.

Each is a `Backbone` with heads. Their state dicts have the published checkpoints' entries:

| entry | module |
|---|---|
| conv1, bn1, layer1 .. layer4 | backbone, a ResNet |
| trunk | backbone, a model of timm |
| projection_head | image-level projection |
| prototypes | prototypes |
| projection_head_pixel, predictor_head_pixel | pixel-to-pixel projection and prediction |
| projection_head_pixel_shallow.projection_head_pixelS | 1x1-convolution MLP of shallow stage S |
| projection_head_shallow.projection_head_shallowS | projection of shallow stage S |
| fbg | pixel attention |
| last_norm | layer norm before the classifier, where the head has one |
| last_layer | per-pixel classifier |
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from luss_ray.nn.backbone import Architecture, Backbone
from luss_ray.nn.heads import (
    PatchLogits,
    PixelAttention,
    PixelPredictor,
    PixelProjector,
    ProjectionHead,
    Prototypes,
    SegmentationHead,
    upsample,
)


@dataclass(frozen=True)
class PretrainOutput:
    """What the losses of pretraining need, of the local samples; crops in the order they came.

    Args:
        embeddings: (V, n, D) float32 of length 1.
        scores: (V, n, K) float32, embeddings times prototypes.
        shallow_scores: per shallow stage (2, n, K) of the two global crops; no gradient reaches the prototypes.
        projections: (2, n, D, S, S) pixel projections z of the global crops on the pair's grid; None without grids.
        predictions: (2, n, D, S, S) predictions p from them; None without grids.
    """

    embeddings: Tensor
    scores: Tensor
    shallow_scores: tuple[Tensor, ...]
    projections: Tensor | None
    predictions: Tensor | None


def pool(features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C"]:
    """Return the mean over pixels, in float32."""
    return features.float().mean(dim=(2, 3))


def describe(features: Float[Tensor, "B C H W"], attention: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C"]:
    """Return one vector of length 1 an image, which clustering works on: pooled features times attention.

    Args:
        features: of `PixelAttentionModel.attend`.
        attention: of the same.
    """
    # As the mean of a product, without the memory that the product would take.
    weighted = torch.linalg.vecdot(features.float().flatten(2), attention.float().flatten(2))
    return F.normalize(weighted / features[0, 0].numel(), dim=1)


class PretrainModel(Backbone):
    """Backbone with the heads of step 1.

    Args:
        architecture: the backbone.
        hidden: width of all MLPs (512 for ResNet-18, 2048 for ResNet-50).
        num_prototypes: K.
        embedding_dim: D.
        shallow_stages: stages (1..3) under deep-to-shallow supervision; the order is that of `shallow_scores`.

    Source: arXiv 2106.03149, section 4. Unlike the published code, any set of stages works in any order.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        hidden: int,
        num_prototypes: int,
        embedding_dim: int = 128,
        shallow_stages: Sequence[int] = (3,),
    ) -> None:
        super().__init__(architecture)
        channels = self.channels
        self.shallow_stages = tuple(shallow_stages)
        self.projection_head = ProjectionHead(channels[3], hidden, embedding_dim)
        if self.shallow_stages:
            self.projection_head_shallow = nn.ModuleDict(
                {_image_name(s): ProjectionHead(channels[s - 1], hidden, embedding_dim) for s in self.shallow_stages}
            )
            self.projection_head_pixel_shallow = nn.ModuleDict(
                {_pixel_name(s): PixelProjector(channels[s - 1], hidden, channels[s - 1]) for s in self.shallow_stages}
            )
        self.projection_head_pixel = PixelProjector(channels[3], hidden, embedding_dim)
        self.predictor_head_pixel = PixelPredictor(embedding_dim)
        self.prototypes = Prototypes(embedding_dim, num_prototypes)

    def leave_out_pixel_heads(self) -> None:
        """Take the heads that need grids out of training: data parallelism waits for every gradient that it expects."""
        self.projection_head_pixel.requires_grad_(False)
        self.predictor_head_pixel.requires_grad_(False)

    def forward(
        self, crops: Sequence[Float[Tensor, "_ 3 _ _"]], grids: Float[Tensor, "2 n S S 2"] | None
    ) -> PretrainOutput:
        """Return embeddings and scores of all crops, pixel projections and predictions of the global ones.

        Args:
            crops: one tensor per resolution, crop-major (crop 0 of all n samples, then crop 1, …). The first holds the
                two global crops (2n, 3, H, W), later ones any number of local crops.
            grids: where to sample each global crop, (x, y) in [-1, 1]; None leaves the pixel heads out.
        """
        n = len(crops[0]) // 2
        stages = self.stages(crops[0])
        deep = [stages[3], *(self.stages(local)[3] for local in crops[1:])]
        embeddings = self.projection_head.embed(torch.cat([pool(features) for features in deep]))
        projections, predictions = (None, None) if grids is None else self._pixels(stages[3], grids)
        return PretrainOutput(
            embeddings=embeddings.unflatten(0, (-1, n)),
            scores=self.prototypes(embeddings).unflatten(0, (-1, n)),
            shallow_scores=tuple(self._shallow(stages[s - 1], s).unflatten(0, (2, n)) for s in self.shallow_stages),
            projections=projections,
            predictions=predictions,
        )

    def _shallow(self, features: Tensor, stage: int) -> Tensor:
        pixels = self.projection_head_pixel_shallow[_pixel_name(stage)](features)
        head = self.projection_head_shallow[_image_name(stage)]
        assert isinstance(head, ProjectionHead)
        return self.prototypes.scores(head.embed(pool(pixels)), detached=True)

    def _pixels(self, features: Tensor, grids: Tensor) -> tuple[Tensor, Tensor]:
        projected = self.projection_head_pixel(features).float()
        sampled = F.grid_sample(projected, grids.flatten(0, 1).float(), padding_mode="zeros", align_corners=False)
        predicted = self.predictor_head_pixel(sampled).float()
        return sampled.unflatten(0, (2, -1)), predicted.unflatten(0, (2, -1))


class PixelAttentionModel(Backbone):
    """Backbone with the heads of step 2; only the attention and the prototypes have gradients.

    In `train()` the frozen layers' batch norm statistics move, as in the published runs. A projection head without
    weights of its own is for the trainer to unfreeze.

    Args:
        architecture: the backbone.
        hidden: width of the projection MLP.
        num_prototypes: K.
        embedding_dim: D.
        attentive: whether there is an attention; without one it is 1 everywhere, and there is nothing to train.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        hidden: int,
        num_prototypes: int,
        embedding_dim: int = 128,
        attentive: bool = True,
    ) -> None:
        super().__init__(architecture)
        self.projection_head = ProjectionHead(self.channels[3], hidden, embedding_dim)
        self.prototypes = Prototypes(embedding_dim, num_prototypes)
        self.requires_grad_(False)
        self.prototypes.requires_grad_(True)
        self.fbg = PixelAttention(self.channels[3]) if attentive else None

    def forward(self, crops: Sequence[Float[Tensor, "_ 3 _ _"]]) -> tuple[Tensor, Tensor]:
        """Return embeddings (V, n, D) and scores (V, n, K) of crops given as to `PretrainModel`."""
        n = len(crops[0]) // 2
        embeddings = self.projection_head.embed(torch.cat([self._pooled(images) for images in crops]))
        return embeddings.unflatten(0, (-1, n)), self.prototypes(embeddings).unflatten(0, (-1, n))

    def _pooled(self, images: Tensor) -> Tensor:
        features, lengths, gate = self._attend(self.stages(images)[3])
        return pool(features / lengths * gate)

    def _attend(self, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return upsampled features, their lengths and their gate."""
        features = upsample(coarse).float()
        lengths = features.norm(dim=1, keepdim=True).clamp_min(1e-12)
        gate = torch.ones_like(features) if self.fbg is None else self.fbg(coarse, lengths).float()
        return features, lengths, gate

    def attend(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
        """Return x4 upsampled features (B, C, 4h, 4w), not normalised, and their attention of the same shape.

        The mean of the attention over channels is the attention map.
        """
        return self.attend_to(self.stages(images)[3])

    def attend_to(self, coarse: Float[Tensor, "B C h w"]) -> tuple[Tensor, Tensor]:
        """Return what `attend` does, from c4."""
        features, _, gate = self._attend(coarse)
        return features, gate


class SegmentationModel(Backbone):
    """Backbone with a classifier of its pixels.

    Args:
        architecture: the backbone.
        num_categories: N; logits have N + 1 channels, 0 is "other".
        head: what is around the classifier's 1x1 convolution; as PASS has it unless given.
    """

    def __init__(
        self, architecture: Architecture, *, num_categories: int, head: SegmentationHead | None = None
    ) -> None:
        super().__init__(architecture)
        self.head = head or SegmentationHead()
        if self.head.norm:
            self.starts_anew = architecture.last_norm
        own_norm = self.head.norm and self.starts_anew is None
        self.last_norm = nn.LayerNorm(self.channels[3], eps=1e-6) if own_norm else None
        self.last_layer = PatchLogits(self.channels[3], num_categories + 1, self.head)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K h w"]:
        """Return logits, at the backbone's stride unless the head says otherwise."""
        features = self.stages(images)[3]
        if self.last_norm is not None:
            features = self.last_norm(features.movedim(1, 3)).movedim(3, 1)
        logits = self.last_layer(features)
        if self.head.upsampling == 1:
            return logits
        return F.interpolate(logits, scale_factor=self.head.upsampling, mode="bilinear", align_corners=False)


def _image_name(stage: int) -> str:
    return f"projection_head_shallow{stage}"


def _pixel_name(stage: int) -> str:
    return f"projection_head_pixel{stage}"
