"""The training stages: what each streams, and which network learns from it."""

from dataclasses import dataclass
from typing import Protocol

import safetensors.torch

from luss_ray.config.recipe import Optimisation, Recipe
from luss_ray.data.stream import StreamSpec
from luss_ray.storage.uri import Location
from luss_ray.train.finetune import FinetuneTrainee
from luss_ray.train.paired_crop import PairedCrop, PseudoLabels, TrueMasks
from luss_ray.train.pixel_attention import PixelAttentionTrainee
from luss_ray.train.pretrain import Pretrainee
from luss_ray.train.swapped import CodeBook
from luss_ray.train.trainee import Trainee, World
from luss_ray.train.views import MultiCrop


class Task(Protocol):
    """One training stage: picklable, sent to every worker."""

    @property
    def name(self) -> str:
        """Name of the stage."""
        ...

    @property
    def recipe(self) -> Recipe:
        """The run's recipe."""
        ...

    @property
    def optimisation(self) -> Optimisation:
        """Schedule of the stage."""
        ...

    def stream(self) -> StreamSpec:
        """Return what the workers read."""
        ...

    def build(self, world: World) -> Trainee:
        """Return the network at its start, the same on every rank."""
        ...


@dataclass(frozen=True, kw_only=True)
class PretrainTask:
    """Learn a backbone from unlabelled images."""

    recipe: Recipe
    data: Location
    name: str = "pretrain"

    @property
    def optimisation(self) -> Optimisation:
        """Schedule of the stage."""
        return self.recipe.pretrain.optimisation

    def stream(self) -> StreamSpec:
        """Return what the workers read: multi-crops."""
        settings = self.recipe.pretrain
        return StreamSpec(
            data=self.data,
            split=settings.split,
            labels=None,
            seed=self.recipe.seed,
            global_batch=settings.optimisation.batch_size,
            epochs=settings.optimisation.epochs,
            transform=MultiCrop(settings.crops),
        )

    def build(self, world: World) -> Pretrainee:
        """Return the network at its random start."""
        plan = self.stream().open_plan()
        return Pretrainee(self.recipe, CodeBook(self.recipe.prototypes, self.recipe.pretrain.queue, plan, world))


@dataclass(frozen=True, kw_only=True)
class PixelAttentionTask:
    """Learn where the image shows something."""

    recipe: Recipe
    data: Location
    pretrained: Location
    """Weights of step 1, a safetensors object."""
    name: str = "pixel attention"

    @property
    def optimisation(self) -> Optimisation:
        """Schedule of the stage."""
        return self.recipe.attention.optimisation

    def stream(self) -> StreamSpec:
        """Return what the workers read: two global crops."""
        settings = self.recipe.attention
        return StreamSpec(
            data=self.data,
            split="train",
            labels=None,
            seed=self.recipe.seed + 1,
            global_batch=settings.optimisation.batch_size,
            epochs=settings.optimisation.epochs,
            transform=MultiCrop(settings.crops),
        )

    def build(self, world: World) -> PixelAttentionTrainee:
        """Return the network with step 1's weights."""
        plan = self.stream().open_plan()
        weights = safetensors.torch.load(self.pretrained.read())
        code_book = CodeBook(self.recipe.prototypes, self.recipe.attention.queue, plan, world)
        return PixelAttentionTrainee(self.recipe, weights, code_book)


@dataclass(frozen=True, kw_only=True)
class FinetuneTask:
    """Learn pixel labels: to repeat the pseudo-labels and do better, or the true masks of a split that has them."""

    recipe: Recipe
    data: Location
    pretrained: Location
    """Weights of the backbone, a safetensors object."""
    num_categories: int
    """Clusters, or categories of the masks."""
    split: str = "train"
    labels: Location | None = None
    """Folder of the pseudo-label shards; None = the split's own masks."""
    threshold: float = 0.0
    """Attention below which a pixel of a pseudo-label is "other"."""
    name: str = "finetune"

    @property
    def optimisation(self) -> Optimisation:
        """Schedule of the stage."""
        return self.recipe.finetune.optimisation

    def stream(self) -> StreamSpec:
        """Return what the workers read: crops with their labels."""
        settings = self.recipe.finetune
        labels = TrueMasks() if self.labels is None else PseudoLabels(self.threshold)
        return StreamSpec(
            data=self.data,
            split=self.split,
            labels=self.labels,
            masks=self.labels is None,
            seed=self.recipe.seed + 2,
            global_batch=settings.optimisation.batch_size,
            epochs=settings.optimisation.epochs,
            transform=PairedCrop(settings, labels),
        )

    def build(self, world: World) -> FinetuneTrainee:
        """Return the network with the backbone's weights."""
        weights = safetensors.torch.load(self.pretrained.read())
        plan = self.stream().open_plan()
        return FinetuneTrainee(self.recipe, weights, self.num_categories, plan, world, annotated=self.labels is None)
