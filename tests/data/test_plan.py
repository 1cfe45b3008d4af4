import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luss_ray.core.errors import UserError
from luss_ray.data.plan import Plan

shard_sizes = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def make_plan(sizes: list[int], seed: int = 0, **settings) -> Plan:
    return Plan(np.repeat(np.arange(len(sizes)), sizes), seed=seed, **settings)


@given(shard_sizes, st.integers(1, 50), st.integers(1, 3), st.integers(0, 5), st.integers(1, 8))
def test_every_sample_once_an_epoch_but_for_the_last_incomplete_batch(sizes, global_batch, epochs, seed, run_rows):
    num_rows = sum(sizes)
    if epochs * num_rows < global_batch:
        return
    plan = make_plan(sizes, seed, global_batch=global_batch, epochs=epochs, run_rows=run_rows)
    used = [np.stack(plan.batch(step)) for step in range(plan.num_steps)]
    assert all(batch.shape == (2, global_batch) for batch in used)
    pairs = set(map(tuple, np.concatenate(used, axis=1).T.tolist()))
    assert len(pairs) == plan.num_steps * global_batch
    missing = {(epoch, row) for epoch in range(epochs) for row in range(num_rows)} - pairs
    assert len(missing) < global_batch
    assert all(epoch == epochs - 1 for epoch, _ in missing) or num_rows < global_batch


@given(shard_sizes, st.integers(1, 50), st.integers(1, 8), st.integers(0, 10**6))
def test_ranks_slices_joined_are_the_batch_wherever_one_resumes(sizes, global_batch, world, place):
    epochs = global_batch // sum(sizes) + 2
    plan = make_plan(sizes, global_batch=global_batch, epochs=epochs)
    fresh = make_plan(sizes, global_batch=global_batch, epochs=epochs)
    step = place % plan.num_steps
    for earlier in range(step):
        plan.batch(earlier)
    slices = [fresh.slice(step, rank, world) for rank in range(world)]
    assert [len(rows) for _, rows in slices] == fresh.sizes(world)
    assert max(fresh.sizes(world)) - min(fresh.sizes(world)) <= 1
    for whole, parts in zip(plan.batch(step), zip(*slices, strict=True), strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_neighbours_come_from_as_many_shards_as_independent_draws():
    plan = make_plan([1000] * 300, global_batch=256, epochs=1)
    num_shards = [len(np.unique(plan.shard_ids[plan.batch(step)[1]])) for step in range(0, plan.num_steps, 50)]
    independent = 300 * (1 - (1 - 1 / 300) ** 256)
    assert np.mean(num_shards) > 0.97 * independent


def test_a_lane_reads_runs_of_neighbouring_rows():
    plan = make_plan([1000] * 300, global_batch=256, epochs=1)
    assert plan.run_rows == 32
    lane = np.array([plan.slice(step, 17, 256)[1][0] for step in range(plan.num_steps)])
    assert np.mean(np.diff(lane) == 1) > 0.95


def test_small_datasets_are_shuffled_row_by_row():
    plan = make_plan([500] * 4, global_batch=64, epochs=2)
    assert plan.run_rows <= 2
    assert np.mean(np.abs(np.diff(plan.order(0))) == 1) < 0.01


def test_epochs_and_seeds_differ_and_runs_are_cut_elsewhere():
    plan, other = (make_plan([999] * 9, seed, global_batch=16, epochs=2) for seed in (1, 2))
    assert (plan.order(0) != plan.order(1)).mean() > 0.9
    assert (plan.order(0) != other.order(0)).mean() > 0.9
    np.testing.assert_array_equal(plan.order(1), make_plan([999] * 9, 1, global_batch=16, epochs=2).order(1))


def test_orders_do_not_travel_with_a_pickled_plan_and_only_two_are_kept():
    plan = make_plan([100], global_batch=10, epochs=9)
    orders = [plan.order(epoch) for epoch in range(5)]
    assert len(plan._orders) == 2
    copy = pickle.loads(pickle.dumps(plan))
    assert not copy._orders
    np.testing.assert_array_equal(copy.order(4), orders[4])


@pytest.mark.parametrize("sizes, batch, epochs", [([], 4, 1), ([3], 4, 1), ([3], 2, 0), ([3], 0, 2)])
def test_too_little_data_is_a_user_error(sizes, batch, epochs):
    with pytest.raises(UserError, match="global batch"):
        make_plan(sizes, global_batch=batch, epochs=epochs)
