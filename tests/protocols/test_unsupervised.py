"""What a run is refused for before it starts, and what its stages follow from."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luss_ray.config.recipe import digest
from luss_ray.config.recipes import demo
from luss_ray.core.errors import UserError
from luss_ray.protocols.unsupervised import _start_from, plan_pass
from luss_ray.stages.run import Run
from luss_ray.storage.uri import Location


def test_more_centroids_than_images_are_refused_at_once(packed, tmp_path: Path) -> None:
    """Parts of clusters count: k-means would refuse them after hours."""
    recipe = replace(demo(), num_categories=9)
    small = {name: replace(getattr(recipe, name)) for name in ("pretrain", "attention", "finetune")}
    for name, stage in small.items():
        small[name] = replace(stage, optimisation=replace(stage.optimisation, batch_size=8))
    recipe = replace(recipe, **small)
    run: Any = {"folder": Location.parse(tmp_path / "run"), "data": packed, "connect": None, "limits": None}
    assert plan_pass(Run(recipe=recipe, **run))
    parts = replace(recipe, clustering=replace(recipe.clustering, parts_per_cluster=3))
    with pytest.raises(UserError, match="24 training images for 9 clusters of 3 parts"):
        plan_pass(Run(recipe=parts, **run))


def test_stages_after_given_weights_follow_from_the_seed_and_the_prototypes() -> None:
    """What the weights lack is drawn, so another seed's stages are others."""
    weights: Any = SimpleNamespace(sha256="0", about=dict)

    def inputs(recipe: Any) -> str:
        run: Any = SimpleNamespace(recipe=recipe, stage=lambda name, follows_from, work: digest(follows_from))
        return str(_start_from(run, weights, {}))

    recipe = demo()
    others = replace(recipe, seed=1), replace(recipe, prototypes=replace(recipe.prototypes, num=7))
    assert len({inputs(recipe), *map(inputs, others)}) == 3
    assert inputs(recipe) == inputs(replace(recipe, num_categories=3))
