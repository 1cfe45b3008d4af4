"""What a run is made of. Every field here influences the result; what only influences speed is a job's option."""

import dataclasses
import enum
import hashlib
import json
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro
from pydantic import TypeAdapter, ValidationError

from luss_ray.core.command import nearest
from luss_ray.core.errors import UserError
from luss_ray.data.colour import STD, ColourSpec
from luss_ray.data.crops import CropSpec
from luss_ray.nn.heads import SegmentationHead
from luss_ray.nn.resnet import ARCHITECTURES, ResNetArchitecture, resnet_tiny
from luss_ray.nn.rf_next import PREFIX as RF_NEXT
from luss_ray.nn.rf_next import RFMode, RFNextArchitecture
from luss_ray.nn.timm_architecture import PREFIX as TIMM
from luss_ray.nn.timm_architecture import TimmArchitecture

TINY = "tiny"
BACKBONES = (*ARCHITECTURES, TINY, f"{TIMM}NAME", f"{RF_NEXT}NAME")


def _require(holds: bool, field_name: str, value: object, wanted: str) -> None:
    if not holds:
        raise UserError(f"{field_name} = {value}: must be {wanted}")


class Optimiser(enum.Enum):
    """How gradients become updates."""

    LARC = "larc"
    """Momentum SGD, each layer's rate scaled by the ratio of its weight and gradient norms (published)."""
    SGD = "sgd"
    """Plain momentum SGD."""
    ADAMW = "adamw"
    """Adam with decoupled weight decay, none for parameters of one dimension; layers may have rates of their own."""


class ThresholdChoice(enum.Enum):
    """Where the attention threshold comes from."""

    VALIDATION = "validation"
    """The best of a sweep on the validation masks (published)."""
    LABEL_FREE = "label-free"
    """From the histogram of attention over the training images; no label is used."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """The network that turns images into features."""

    name: Annotated[str, tyro.conf.arg(aliases=["--backbone"], metavar="|".join(BACKBONES))] = "resnet50"
    """Which network; D16 has features of stride 16, `timm:NAME` is any model of timm that gives maps of four stages,
    `rf-next:NAME` a ConvNeXt of timm that searches its receptive fields."""
    drop_path: float = 0.0
    """Chance with which a block is left out for an image in training; only models of timm have it."""
    rf_mode: RFMode = RFMode.SEARCH
    """What the receptive fields do; only `rf-next:` asks."""
    widths: tuple[int, int, int, int] = (12, 24, 32, 24)
    """Planes of the four stages, which have four times as many channels; only `tiny` asks."""
    num_blocks: tuple[int, int, int, int] = (1, 1, 1, 1)
    """Residual blocks of the four stages; only `tiny` asks."""
    strides: tuple[int, int, int, int] = (1, 2, 2, 1)
    """Strides of the four stages, after a first convolution of stride 2; only `tiny` asks."""

    def __post_init__(self) -> None:
        known = self.name in (*ARCHITECTURES, TINY) or self.name.startswith((TIMM, RF_NEXT))
        near = nearest(self.name, BACKBONES)
        hint = f"; did you mean {near}?" if near else ""
        _require(known, "backbone", self.name, f"one of {', '.join(BACKBONES)}{hint}")
        _require(0 <= self.drop_path < 1, "backbone.drop_path", self.drop_path, "0 or more, below 1")
        _require(
            not self.drop_path or self.name.startswith((TIMM, RF_NEXT)),
            "backbone.drop_path",
            self.drop_path,
            f"0 for {self.name}",
        )
        for name in ("widths", "num_blocks", "strides"):
            _require(min(getattr(self, name)) >= 1, f"backbone.{name}", getattr(self, name), "each at least 1")

    def architecture(self) -> ResNetArchitecture | TimmArchitecture:
        """Return the shape of the network.

        Raises:
            UserError: timm has no such model, or none of these maps.
        """
        if self.name == TINY:
            return resnet_tiny(widths=self.widths, num_blocks=self.num_blocks, strides=self.strides)
        if self.name.startswith(TIMM):
            return TimmArchitecture(self.name.removeprefix(TIMM), self.drop_path)
        if self.name.startswith(RF_NEXT):
            return RFNextArchitecture(self.name.removeprefix(RF_NEXT), self.drop_path, self.rf_mode)
        return ARCHITECTURES[self.name]


@dataclass(frozen=True, kw_only=True)
class Crops:
    """The views of one image that are compared with each other."""

    global_px: int = 224
    """Side of the two global crops."""
    global_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a global crop covers."""
    num_local: int = 0
    """Local crops beside the two global ones."""
    local_px: int = 96
    """Side of the local crops."""
    local_scale: tuple[float, float] = (0.05, 0.14)
    """Share of the image's area that a local crop covers."""
    colour: ColourSpec = field(default_factory=ColourSpec)
    """Colour changes, drawn for each crop by itself."""

    def __post_init__(self) -> None:
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            _require(0 < low <= high <= 1, f"crops.{name}", (low, high), "0 < low <= high <= 1")
        _require(self.global_px >= 8 and self.local_px >= 8, "crops.*_px", self.global_px, "at least 8 pixels")
        _require(self.num_local >= 0, "crops.num_local", self.num_local, "0 or more")

    def specs(self) -> list[CropSpec]:
        """Return the kinds of crops, the two global ones first."""
        kinds = [CropSpec(num=2, size_px=self.global_px, scale=self.global_scale)]
        if self.num_local:
            kinds.append(CropSpec(num=self.num_local, size_px=self.local_px, scale=self.local_scale))
        return kinds


@dataclass(frozen=True, kw_only=True)
class LayerRates:
    """Learning rates that fall from the last layer to the first; only AdamW has them."""

    decay: float = 1.0
    """A layer has so many times the rate of the next one; 1 = all have the same."""
    rf_decay: float = 1.0
    """The same for what receptive-field convolutions learn: branch weights, and kernels whose dilation has grown."""
    rf_multiplier: float = 1.0
    """Their rate in the last layer, times the schedule's."""

    def __post_init__(self) -> None:
        for name in ("decay", "rf_decay"):
            _require(0 < getattr(self, name) <= 1, f"layers.{name}", getattr(self, name), "above 0, at most 1")
        _require(self.rf_multiplier > 0, "layers.rf_multiplier", self.rf_multiplier, "positive")


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """The schedule of one training stage; all of it is counted in global steps, so the world size changes nothing."""

    epochs: int
    """Passes over the training split."""
    batch_size: int = 256
    """Images in the global batch, over all workers."""
    lr: float = 0.6
    """Learning rate at the start."""
    final_lr: float = 0.0006
    """Learning rate at the end of the cosine."""
    warmup_steps: int = 0
    """Steps at the start over which the rate grows linearly from 0."""
    warmup_epochs: float = 0.0
    """The same in epochs; they add up."""
    optimiser: Optimiser = Optimiser.LARC
    """Update rule."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-6
    """L2 penalty of SGD, weight decay of AdamW."""
    layers: LayerRates = field(default_factory=LayerRates)
    """Rates of the layers."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        _require(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2 images")
        _require(self.lr > 0 and self.final_lr >= 0, "lr", self.lr, "positive")
        for name in ("warmup_steps", "warmup_epochs"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        layered = self.layers != LayerRates()
        _require(
            not layered or self.optimiser is Optimiser.ADAMW,
            "layers",
            self.layers,
            "left alone without --…optimiser adamw",
        )

    def num_warmup_steps(self, steps_per_epoch: float) -> int:
        """Return the steps over which the rate grows."""
        return self.warmup_steps + round(self.warmup_epochs * steps_per_epoch)


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """Swapped prediction, the same in pretraining and attention: which prototypes, which codes."""

    num: int = 3000
    """Prototypes K."""
    hidden: int = 2048
    """Width of the projection heads' hidden layer."""
    embedding_dim: int = 128
    """Length D of an embedding."""
    temperature: float = 0.1
    """Temperature of the softmax over scores."""
    epsilon: float = 0.05
    """Smoothness of the codes (Sinkhorn)."""
    sinkhorn_iterations: int = 3
    """Sinkhorn iterations."""

    def __post_init__(self) -> None:
        _require(self.num >= 2, "prototypes.num", self.num, "at least 2")
        for name in ("hidden", "embedding_dim", "sinkhorn_iterations"):
            _require(getattr(self, name) >= 1, f"prototypes.{name}", getattr(self, name), "at least 1")
        _require(self.epsilon > 0 and self.temperature > 0, "prototypes.epsilon", self.epsilon, "positive")


@dataclass(frozen=True, kw_only=True)
class Queue:
    """Embeddings of earlier batches that join the Sinkhorn."""

    length: int = 3840
    """Embeddings of each global crop; 0 = no queue."""
    start_epoch: int = 0
    """Epoch from which it fills."""

    def __post_init__(self) -> None:
        _require(self.length >= 0 and self.start_epoch >= 0, "queue.length", self.length, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Step 1: swapped prediction, pixel-to-pixel alignment and deep-to-shallow supervision."""

    split: str = "train"
    """Split of the dataset to learn from."""
    optimisation: Optimisation = field(default_factory=lambda: Optimisation(epochs=100))
    crops: Crops = field(default_factory=Crops)
    queue: Queue = field(default_factory=lambda: Queue(start_epoch=15))
    frozen_prototype_steps: int = 5005
    """Steps at the start in which prototypes stay as they are."""
    shallow_stages: tuple[int, ...] = (3,)
    """Stages supervised by the deep codes, of 1, 2, 3; empty = none."""
    pixel_to_pixel: float = 1.0
    """Weight of the pixel-to-pixel term; 0 = none."""
    grid: int = 7
    """Points a side of the grid at which pixels of two crops are compared."""

    def __post_init__(self) -> None:
        stages = self.shallow_stages
        known = set(stages) <= {1, 2, 3} and len(set(stages)) == len(stages)
        _require(known, "pretrain.shallow_stages", stages, "some of 1, 2, 3, each once")
        _require(self.pixel_to_pixel >= 0, "pretrain.pixel_to_pixel", self.pixel_to_pixel, "0 or more")
        _require(self.grid >= 1, "pretrain.grid", self.grid, "at least 1")
        _require(self.frozen_prototype_steps >= 0, "frozen_prototype_steps", self.frozen_prototype_steps, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Step 2.1: the attention module and prototypes train on a frozen backbone."""

    enabled: bool = True
    """Whether there is an attention at all; without it every pixel counts alike, and none is "other"."""
    optimisation: Optimisation = field(default_factory=lambda: Optimisation(epochs=20))
    crops: Crops = field(default_factory=Crops)
    queue: Queue = field(default_factory=Queue)


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """Step 2.2: one vector an image, k-means."""

    num_restarts: int = 30
    """Starts, of which the best objective wins."""
    num_iterations: int = 20
    """Lloyd iterations at most."""
    tolerance: float = 0.0
    """Stop when the objective falls by less than this share; 0 = run all iterations."""
    drop_hopeless: bool = False
    """End restarts that could not win any more even if they went on falling as fast as in their last iteration."""
    parts_per_cluster: int = 1
    """Look for so many times more clusters than wanted, then merge those that are closest (Ward)."""
    crop_px: int = 224
    """Centre crop taken from the image resized to `Recipe.shorter_side_px`."""

    def __post_init__(self) -> None:
        for name in ("num_restarts", "num_iterations", "parts_per_cluster", "crop_px"):
            _require(getattr(self, name) >= 1, f"clustering.{name}", getattr(self, name), "at least 1")
        _require(self.tolerance >= 0, "clustering.tolerance", self.tolerance, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Step 2.3: below which attention a pixel is "other"."""

    choice: ThresholdChoice = ThresholdChoice.VALIDATION
    """Where the threshold comes from; data without validation masks always takes the label-free one."""
    max: float = 0.8
    """End of the sweep, in steps of 0.01."""

    def __post_init__(self) -> None:
        _require(0 <= self.max <= 1, "threshold.max", self.max, "0 to 1, as attention is")


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Step 2.4: which cluster a pixel gets, and how sure it must be."""

    image_prior: float = 0.0
    """Weight of the whole image's cosine to a centroid beside the pixel's own; 0 = pixels decide alone (published)."""
    attention_per_image: bool = False
    """Stretch each image's attention to 0 .. 1 (its 2 % and 98 % quantiles), so that a threshold takes a share of every
    image's range rather than one level for all."""

    def __post_init__(self) -> None:
        _require(self.image_prior >= 0, "labels.image_prior", self.image_prior, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Search:
    """When receptive fields move on; only a backbone of `rf-next:` in the mode `search` asks."""

    every_epochs: int = 10
    """Epochs between two searches."""
    times: int = 3
    """Searches in all."""

    def __post_init__(self) -> None:
        _require(self.every_epochs >= 1, "search.every_epochs", self.every_epochs, "at least 1")
        _require(self.times >= 0, "search.times", self.times, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Step 3: backbone and classifier train on the pseudo-labels, or on masks."""

    freeze_backbone: bool = False
    """Whether the classifier alone is trained."""
    optimisation: Optimisation = field(default_factory=lambda: Optimisation(epochs=20))
    crop_px: int = 224
    """Side of the crop taken from image and label together."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a crop covers."""
    colour: ColourSpec = field(default_factory=lambda: ColourSpec(jitter_p=0.0, grey_p=0.0, blur_p=0.0, std=STD))
    """Colour changes."""
    head: SegmentationHead = field(default_factory=SegmentationHead)
    """The classifier."""
    loss_upsampling: int = 0
    """The loss is taken at so many times the logits' resolution; 0 = at half of the labels' (published for PASS)."""
    search: Search = field(default_factory=Search)
    """Of receptive fields."""

    def __post_init__(self) -> None:
        low, high = self.scale
        _require(0 < low <= high <= 1, "finetune.scale", self.scale, "0 < low <= high <= 1")
        _require(self.crop_px >= 8, "finetune.crop_px", self.crop_px, "at least 8 pixels")
        _require(self.loss_upsampling >= 0, "finetune.loss_upsampling", self.loss_upsampling, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Step 4: what becomes of the fine-tuned network's outputs."""

    guided_radius: float = 0.0
    """Let predictions follow the outlines of the image within a radius of so many pixels of the network's output (after
    `finetune.head.upsampling`), which knows of no finer ones; 0 = outputs are only resized (published)."""

    def __post_init__(self) -> None:
        _require(0 <= self.guided_radius <= 4, "prediction.guided_radius", self.guided_radius, "0 to 4")

    def departures(self) -> dict[str, float]:
        """Return what differs from the published way, by name."""
        return {"guided_radius": self.guided_radius} if self.guided_radius else {}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete run of PASS.

    Source: Gao et al., "Large-scale Unsupervised Semantic Segmentation", arXiv 2106.03149, and its published settings.
    """

    recipe_name: tyro.conf.Fixed[str]
    """Name under which the recipe is asked for."""
    demo_dataset: tyro.conf.Fixed[str | None] = None
    """Variant of the embedded dataset that is used when no data is given; None = data must be given."""
    seed: int = 10010
    """Seed of everything random."""
    num_categories: int | None = None
    """Clusters N; by default as many as the dataset has categories."""
    category_candidates: tuple[int, ...] = ()
    """Numbers of clusters to choose from where neither num_categories nor the dataset says how many: that of the best
    silhouette is taken, which needs no labels."""
    shorter_side_px: int = 256
    """Images are resized so that their shorter side has this length for features, labels and inference."""
    backbone: Backbone = field(default_factory=Backbone)
    prototypes: Prototypes = field(default_factory=Prototypes)
    pretrain: Pretrain = field(default_factory=Pretrain)
    attention: Attention = field(default_factory=Attention)
    clustering: Clustering = field(default_factory=Clustering)
    labels: Labels = field(default_factory=Labels)
    threshold: Threshold = field(default_factory=Threshold)
    finetune: Finetune = field(default_factory=Finetune)
    prediction: Prediction = field(default_factory=Prediction)
    mixed_precision: bool = True
    """Train in bfloat16 where the device computes it natively, else in float16 on GPUs with tensor cores, the loss
    scaled; losses and updates stay in float32."""
    random_baseline: bool = False
    """Run everything after pretraining once more from a random backbone, as a baseline."""

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "seed", self.seed, "0 or more")
        _require(self.shorter_side_px >= 8, "shorter_side_px", self.shorter_side_px, "at least 8 pixels")
        _require(self.num_categories is None or self.num_categories >= 2, "num_categories", self.num_categories, ">= 2")
        candidates = self.category_candidates
        _require(all(number >= 2 for number in candidates), "category_candidates", candidates, "each 2 or more")


def settings(config: Any) -> Any:
    """Return dataclasses of this package, alone or within dicts and lists, as plain JSON values."""
    if dataclasses.is_dataclass(config):
        return {f.name: settings(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, enum.Enum):
        return config.value
    if isinstance(config, dict):
        return {name: settings(value) for name, value in config.items()}
    return [settings(value) for value in config] if isinstance(config, list | tuple) else config


def recipe_from(values: dict[str, Any]) -> Recipe:
    """Return the recipe that `settings` wrote down.

    Raises:
        UserError: it is from another version, whose recipes had other fields.
    """
    try:
        return TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UserError(f"the run's settings are not of this version ({where}): use the version that made it") from None


def digest(value: Any) -> str:
    """Return the SHA-256 of settings as JSON, independent of the order of keys."""
    return hashlib.sha256(json.dumps(settings(value), sort_keys=True).encode()).hexdigest()
