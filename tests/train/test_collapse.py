import math

import pytest
import torch

from luss_ray.losses.sinkhorn import codes
from luss_ray.losses.swav import swap_loss
from luss_ray.train.collapse import FEW_PROTOTYPES, LOSS_AT_LN_K, UNIFORM_CODES, CollapseWatch, meaning
from luss_ray.train.swapped import of_ln_k, watched

NUM_PROTOTYPES = 32


def figures(embeddings: torch.Tensor, prototypes: torch.Tensor) -> dict[str, float]:
    """Return what a step on these embeddings (2, B, D) would have to say."""
    scores = embeddings @ prototypes.T
    balanced = codes(scores, None, epsilon=0.05, num_iterations=3)
    values = watched(balanced, embeddings) | of_ln_k(swap_loss(scores, balanced), NUM_PROTOTYPES)
    return {name: float(value) for name, value in values.items()}


@pytest.fixture
def prototypes() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(NUM_PROTOTYPES, 16, generator=generator))


def after(watch: CollapseWatch, values: dict[str, float], times: int) -> list[str]:
    return [watch.update(values) for _ in range(times)][-1]


def test_images_that_all_look_the_same_raise_the_alarm(prototypes):
    """All embeddings in one point, far from no prototype: codes are uniform, and so is the best prediction."""
    mean = torch.nn.functional.normalize(torch.ones(16), dim=0)
    same = torch.nn.functional.normalize(prototypes - (prototypes @ mean)[:, None] * mean)
    values = figures(mean.expand(2, 64, 16), same)
    assert [values["code_entropy"], values["swap_of_ln_k"]] == pytest.approx([1, 1], abs=1e-3)
    assert values["embedding_std"] == pytest.approx(0, abs=1e-6)
    assert set(after(CollapseWatch(100), values, 20)) == {LOSS_AT_LN_K, UNIFORM_CODES}


def test_images_that_are_told_apart_raise_none(prototypes):
    images = prototypes.repeat(2, 1)
    values = figures(torch.stack([images, images]), prototypes)
    assert values["prototype_usage"] == pytest.approx(1, abs=0.05) and values["code_entropy"] < 0.5
    assert values["embedding_std"] == pytest.approx(1, abs=0.1)
    assert after(CollapseWatch(100), values, 200) == []


def test_a_few_prototypes_for_all():
    some = torch.zeros(2, 64, NUM_PROTOTYPES)
    some[..., 3] = 1
    found = watched(some, torch.eye(64).expand(2, 64, 64))
    values = {name: float(value) for name, value in found.items()} | {"swap_of_ln_k": 0.1}
    assert values["prototype_usage"] == pytest.approx(1 / NUM_PROTOTYPES) and values["code_entropy"] == 0
    assert after(CollapseWatch(100), values, 20) == [FEW_PROTOTYPES]


def test_the_start_of_a_training_is_no_collapse_and_an_alarm_ends():
    watch = CollapseWatch(1000)
    bad = {"swap_of_ln_k": 1.0, "code_entropy": 0.5, "prototype_usage": 1.0}
    assert after(watch, bad, 49) == [] and after(watch, bad, 1) == [LOSS_AT_LN_K]
    assert after(watch, bad | {"swap_of_ln_k": 0.9}, 1) == []
    assert after(watch, bad | {"swap_of_ln_k": 2.0}, 100) == []
    assert CollapseWatch(1).update({"loss": math.nan}) == []


def test_every_alarm_has_a_meaning():
    assert all(meaning(alarm) for alarm in (LOSS_AT_LN_K, UNIFORM_CODES, FEW_PROTOTYPES))
