import dataclasses
import json

import pytest

from luss_ray.config.recipe import (
    Backbone,
    Crops,
    Finetune,
    Optimisation,
    Prediction,
    Pretrain,
    Prototypes,
    Recipe,
    Threshold,
    digest,
    settings,
)
from luss_ray.config.recipes import RECIPES
from luss_ray.core.errors import UserError


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_complete_and_know_their_name(name):
    recipe = RECIPES[name]()
    assert recipe.recipe_name == name
    assert json.loads(json.dumps(settings(recipe))) == settings(recipe)


def test_published_settings():
    """The numbers of the published runs, table by table."""
    small, middle, large = (RECIPES[f"imagenet-s-{n}"]() for n in (50, 300, 919))
    assert (small.backbone.name, middle.backbone.name) == ("resnet18", "resnet50")
    assert (small.prototypes.num, small.prototypes.hidden) == (500, 512)
    assert (middle.prototypes.num, middle.prototypes.hidden) == (3000, 2048)
    assert small.pretrain.crops.num_local == 6 and middle.pretrain.crops.num_local == 0
    assert small.pretrain.crops.global_scale == (0.14, 1.0) and middle.pretrain.crops.global_scale == (0.08, 1.0)
    assert (small.pretrain.queue.length, middle.pretrain.queue.length) == (2048, 3840)
    assert {r.pretrain.queue.start_epoch for r in (small, middle, large)} == {15}
    assert (small.pretrain.frozen_prototype_steps, large.pretrain.frozen_prototype_steps) == (1001, 5005)
    assert (small.pretrain.optimisation.epochs, middle.pretrain.optimisation.epochs) == (200, 100)
    assert (small.attention.optimisation.lr, middle.attention.optimisation.lr) == (6.0, 0.6)
    for recipe in (small, middle, large):
        assert recipe.attention.optimisation.epochs == recipe.finetune.optimisation.epochs == 20
        assert recipe.attention.queue.length == 3840 and recipe.attention.queue.start_epoch == 0
        assert recipe.pretrain.optimisation.batch_size == 256 and recipe.pretrain.optimisation.weight_decay == 1e-6
        assert (recipe.clustering.num_restarts, recipe.clustering.num_iterations) == (30, 20)
        assert recipe.seed == 10010
    assert large.pretrain.split == "train-full" and middle.pretrain.split == "train"


@pytest.mark.parametrize(
    "name, lr, decay, weight_decay, drop_path",
    [
        ("vit-b16", 5e-4, 0.6, 0.05, 0.1),
        ("vit-b16-supervised", 1e-4, 0.4, 0.05, 0.1),
        ("vit-s16", 5e-4, 0.5, 0.05, 0.1),
        ("resnet50", 5e-4, 0.4, 5e-4, 0.0),
        ("resnet50-d16", 5e-4, 0.45, 5e-4, 0.0),
        ("convnext-t", 2.5e-4, 0.6, 0.05, 0.2),
        ("rf-convnext-t-search", 2.5e-4, (0.6, 0.9, 10), 0.05, 0.2),
        ("rf-convnext-t-single", 2.5e-4, (0.6, 0.9, 10), 0.05, 0.2),
        ("rf-convnext-t-multiple", 2.5e-4, (0.55, 0.9, 10), 0.05, 0.1),
        ("rf-convnext-t-merge", 2.5e-4, (0.55, 1.0, 10), 0.05, 0.2),
    ],
)
def test_published_settings_of_semi_supervised_fine_tuning(name, lr, decay, weight_decay, drop_path):
    recipe = RECIPES[f"semi-{name}"]()
    optimisation, layers = recipe.finetune.optimisation, recipe.finetune.optimisation.layers
    assert (optimisation.lr, optimisation.weight_decay, recipe.backbone.drop_path) == (lr, weight_decay, drop_path)
    assert (layers.decay, layers.rf_decay, layers.rf_multiplier) == (
        decay if isinstance(decay, tuple) else (decay, 1, 1)
    )
    assert (optimisation.epochs, optimisation.batch_size, optimisation.warmup_epochs) == (100, 256, 5)
    assert optimisation.final_lr == 1e-6 and recipe.finetune.scale == (0.14, 1.0) and recipe.shorter_side_px == 256
    assert recipe.finetune.colour.std == (0.229, 0.224, 0.225) and recipe.finetune.colour.blur_p == 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: Crops(global_scale=(0.5, 0.2)),
        lambda: Crops(local_px=2),
        lambda: Optimisation(epochs=0),
        lambda: Optimisation(epochs=1, batch_size=1),
        lambda: Recipe(recipe_name="x", num_categories=1),
        lambda: Prediction(guided_radius=4.1),
        lambda: Prediction(guided_radius=-1),
        lambda: Recipe(recipe_name="x", seed=-1),
        lambda: Recipe(recipe_name="x", shorter_side_px=0),
        lambda: Prototypes(hidden=0),
        lambda: Pretrain(shallow_stages=(3, 4)),
        lambda: Pretrain(grid=0),
        lambda: Threshold(max=80),
        lambda: Finetune(scale=(0.4, 4.0)),
        lambda: Finetune(crop_px=0),
    ],
)
def test_impossible_values_are_refused_in_one_line(make):
    with pytest.raises(UserError, match="must be") as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_the_digest_follows_every_field():
    recipe = RECIPES["imagenet-s-50"]()
    changed = dataclasses.replace(recipe, clustering=dataclasses.replace(recipe.clustering, tolerance=0.1))
    assert digest(recipe) == digest(RECIPES["imagenet-s-50"]()) != digest(changed)
    assert digest({"a": 1, "b": [recipe]}) == digest({"b": [recipe], "a": 1})


def test_an_unknown_backbone_names_the_nearest_and_all():
    with pytest.raises(UserError, match=r"backbone = resnet5O: must be one of .*timm:NAME.*; did you mean resnet50\?"):
        Backbone(name="resnet5O")
    with pytest.raises(UserError, match="must be one of") as refusal:
        Backbone(name="vgg")
    assert "did you mean" not in str(refusal.value)
