import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luss_ray.data.plan import Plan
from luss_ray.data.shuffle_quality import clumping


def test_independent_draws_have_one_and_order_has_many() -> None:
    random = np.random.default_rng(0)
    assert clumping(random.integers(0, 20, 100_000)) == pytest.approx(1, abs=0.05)
    ordered = np.repeat(np.arange(20), 5120)
    assert clumping(ordered) == pytest.approx(256, abs=1)
    assert clumping(np.arange(100_000) % 256) < 0.01
    assert clumping(np.zeros(1000, int)) == 1


@given(st.permutations(range(5)), st.integers(1, 40))
def test_names_of_classes_do_not_matter(names: list[int], window: int) -> None:
    ids = np.random.default_rng(1).integers(0, 5, 400)
    assert clumping(np.array(names)[ids], window) == pytest.approx(clumping(ids, window))


def test_the_plan_mixes_shards_that_are_ordered_by_class() -> None:
    """100 classes, each in shards of its own: the worst that somebody may have packed."""
    shard_ids = np.repeat(np.arange(200), 500)
    plan = Plan(shard_ids, seed=0, global_batch=256, epochs=1)
    assert clumping((shard_ids // 2)[plan.order(0)]) < 1.1
