"""The recipes by name."""

from collections.abc import Callable
from dataclasses import replace

from luss_ray.config.recipe import (
    Attention,
    Backbone,
    Clustering,
    Crops,
    Finetune,
    Labels,
    LayerRates,
    Optimisation,
    Optimiser,
    Prediction,
    Pretrain,
    Prototypes,
    Queue,
    Recipe,
    Threshold,
)
from luss_ray.data.colour import STD, ColourSpec
from luss_ray.nn.heads import SegmentationHead
from luss_ray.nn.rf_next import RFMode

_OWN_BATCH = 64


def imagenet_s_50() -> Recipe:
    """Return the published settings for ImageNet-S 50."""
    return Recipe(
        recipe_name="imagenet-s-50",
        backbone=Backbone(name="resnet18"),
        prototypes=Prototypes(num=500, hidden=512),
        pretrain=Pretrain(
            optimisation=Optimisation(epochs=200),
            crops=Crops(global_scale=(0.14, 1.0), num_local=6),
            queue=Queue(length=2048, start_epoch=15),
            frozen_prototype_steps=1001,
        ),
        attention=Attention(optimisation=Optimisation(epochs=20, lr=6.0)),
    )


def imagenet_s_300() -> Recipe:
    """Return the published settings for ImageNet-S 300."""
    return Recipe(recipe_name="imagenet-s-300")


def imagenet_s_919() -> Recipe:
    """Return the published settings for ImageNet-S 919; pretraining sees all 1000 ImageNet classes."""
    return Recipe(recipe_name="imagenet-s-919", pretrain=Pretrain(split="train-full"))


def own_images() -> Recipe:
    """Return settings for a folder of photographs without labels: the smallest published network, in batches that a few
    hundred images fill, and as many clusters as the features show.

    Each image's attention is stretched, which is what helps a threshold that no mask has chosen, and predictions follow
    the outlines of the images; see benchmarks/RESULTS.md, Quality.
    """
    published = imagenet_s_50()

    def small_batches(stage: Optimisation) -> Optimisation:
        share = _OWN_BATCH / stage.batch_size
        return replace(stage, batch_size=_OWN_BATCH, lr=stage.lr * share, final_lr=stage.final_lr * share)

    return replace(
        published,
        recipe_name="own-images",
        category_candidates=(*range(4, 17), 18, 20, 24, 28, 32, 40, 50, 64),
        pretrain=replace(
            published.pretrain, optimisation=small_batches(published.pretrain.optimisation), frozen_prototype_steps=300
        ),
        attention=replace(published.attention, optimisation=small_batches(published.attention.optimisation)),
        labels=Labels(attention_per_image=True),
        threshold=Threshold(max=0.95),
        finetune=replace(published.finetune, optimisation=small_batches(published.finetune.optimisation)),
        prediction=Prediction(guided_radius=1.0),
    )


def demo() -> Recipe:
    """Return settings for the embedded scenes that learn to tell objects apart within minutes on two cores."""
    mild = ColourSpec(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0, grey_p=0.1, blur_p=0.0)
    crops = Crops(global_px=40, global_scale=(0.4, 1.0), colour=mild)
    return Recipe(
        recipe_name="demo",
        demo_dataset="demo",
        shorter_side_px=64,
        backbone=Backbone(name="tiny", widths=(8, 32, 48, 16), num_blocks=(1, 1, 2, 1), strides=(1, 2, 2, 1)),
        prototypes=Prototypes(num=64, hidden=64, embedding_dim=64),
        pretrain=Pretrain(
            optimisation=Optimisation(epochs=24, batch_size=64, lr=3.0, final_lr=0.003, warmup_steps=20),
            crops=replace(crops, num_local=2, local_px=24, local_scale=(0.15, 0.4)),
            queue=Queue(length=0),
            frozen_prototype_steps=0,
        ),
        attention=Attention(
            optimisation=Optimisation(epochs=4, batch_size=32, lr=8.0, final_lr=0.008),
            crops=replace(crops, global_scale=(0.15, 1.0)),
            queue=Queue(length=0),
        ),
        clustering=Clustering(crop_px=64, num_restarts=10),
        finetune=Finetune(
            optimisation=Optimisation(epochs=6, batch_size=32, lr=0.05, optimiser=Optimiser.SGD, final_lr=0.0001),
            crop_px=64,
            scale=(0.4, 1.0),
        ),
        mixed_precision=False,  # machines with and without bfloat16 learn the same, in a third more time
        random_baseline=True,
    )


def pass_plus() -> Recipe:
    """Return the demo with what was found to help beyond the published method: see benchmarks/RESULTS.md, Quality."""
    return replace(
        demo(),
        recipe_name="pass-plus",
        labels=Labels(image_prior=4.0, attention_per_image=True),
        threshold=Threshold(max=0.95),
        prediction=Prediction(guided_radius=1.25),
    )


def demo_hard() -> Recipe:
    """Return settings for the harder scenes (224 px, 14 categories, photographic backgrounds), for a GPU."""
    crops = Crops(global_px=160, global_scale=(0.3, 1.0), num_local=4, local_px=80, local_scale=(0.1, 0.3))
    return Recipe(
        recipe_name="demo-hard",
        demo_dataset="demo-hard",
        shorter_side_px=224,
        backbone=Backbone(name="resnet18"),
        prototypes=Prototypes(num=300, hidden=512),
        pretrain=Pretrain(
            optimisation=Optimisation(epochs=100, warmup_steps=100),
            crops=crops,
            queue=Queue(length=2048, start_epoch=15),
            frozen_prototype_steps=300,
        ),
        attention=Attention(
            optimisation=Optimisation(epochs=10, lr=6.0), crops=Crops(global_px=160, global_scale=(0.3, 1.0))
        ),
        clustering=Clustering(crop_px=224),
        finetune=Finetune(optimisation=Optimisation(epochs=20), crop_px=192, scale=(0.2, 1.0)),
        random_baseline=True,
    )


def _semi(
    name: str,
    backbone: Backbone,
    head: SegmentationHead,
    *,
    lr: float,
    layers: LayerRates,
    weight_decay: float = 0.05,
) -> Recipe:
    """Return a recipe of ImageNetSegModel: fine-tuning on the annotated images, with jobs/finetune.py."""
    optimisation = Optimisation(
        epochs=100,
        lr=lr,
        final_lr=1e-6,
        warmup_epochs=5,
        optimiser=Optimiser.ADAMW,
        weight_decay=weight_decay,
        layers=layers,
    )
    return Recipe(
        recipe_name=f"semi-{name}",
        backbone=backbone,
        finetune=Finetune(
            optimisation=optimisation,
            scale=(0.14, 1.0),
            colour=ColourSpec(std=STD),
            head=head,
            loss_upsampling=2,
        ),
    )


def _semi_vit(name: str, model: str, *, lr: float, decay: float) -> Recipe:
    head = SegmentationHead(norm=True, std=2e-5)
    backbone = Backbone(name=f"timm:{model}", drop_path=0.1)
    return _semi(name, backbone, head, lr=lr, layers=LayerRates(decay=decay))


def _semi_resnet(name: str, model: str, *, decay: float) -> Recipe:
    head, layers = SegmentationHead(upsampling=2), LayerRates(decay=decay)
    return _semi(name, Backbone(name=model), head, lr=5e-4, layers=layers, weight_decay=5e-4)


def _semi_convnext(name: str, backbone: Backbone, layers: LayerRates) -> Recipe:
    return _semi(name, backbone, SegmentationHead(norm=True, patch=4, std=0.02), lr=2.5e-4, layers=layers)


def _semi_rf_convnext(mode: RFMode, *, decay: float = 0.6, rf_decay: float = 0.9, drop_path: float = 0.2) -> Recipe:
    backbone = Backbone(name="rf-next:convnext_tiny", drop_path=drop_path, rf_mode=mode)
    layers = LayerRates(decay=decay, rf_decay=rf_decay, rf_multiplier=10.0)
    return _semi_convnext(f"rf-convnext-t-{mode.value}", backbone, layers)


_VIT_S, _VIT_B = "vit_small_patch16_224", "vit_base_patch16_224"
SEMI_SUPERVISED: tuple[Recipe, ...] = (
    _semi_vit("vit-b16", _VIT_B, lr=5e-4, decay=0.6),
    _semi_vit("vit-b16-supervised", _VIT_B, lr=1e-4, decay=0.4),
    _semi_vit("vit-s16", _VIT_S, lr=5e-4, decay=0.5),
    _semi_resnet("resnet50", "resnet50", decay=0.4),
    _semi_resnet("resnet50-d16", "resnet50-d16", decay=0.45),
    _semi_convnext("convnext-t", Backbone(name="timm:convnext_tiny", drop_path=0.2), LayerRates(decay=0.6)),
    _semi_rf_convnext(RFMode.SEARCH),
    _semi_rf_convnext(RFMode.SINGLE),
    _semi_rf_convnext(RFMode.MULTIPLE, decay=0.55, drop_path=0.1),
    _semi_rf_convnext(RFMode.MERGE, decay=0.55, rf_decay=1.0),
)
"""Those of ImageNetSegModel (https://github.com/LUSSeg/ImageNetSegModel), for jobs/finetune.py: its networks, rates and
augmentation. `-supervised` is for weights that have seen class labels; `vit-s16` is the same for both kinds."""

RECIPES: dict[str, Callable[[], Recipe]] = {
    "demo": demo,
    "pass-plus": pass_plus,
    "demo-hard": demo_hard,
    "own-images": own_images,
    "imagenet-s-50": imagenet_s_50,
    "imagenet-s-300": imagenet_s_300,
    "imagenet-s-919": imagenet_s_919,
    **{recipe.recipe_name: lambda recipe=recipe: recipe for recipe in SEMI_SUPERVISED},
}
