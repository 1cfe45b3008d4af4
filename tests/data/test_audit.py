import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luss_ray.data.audit import Consumption, expected_consumption
from luss_ray.data.plan import Plan


def make_plan() -> Plan:
    return Plan(np.repeat(np.arange(5), 13), seed=3, global_batch=12, epochs=4)


def consume(plan: Plan, steps: range, world: int) -> Consumption:
    """What `world` ranks report, merged."""
    total = Consumption()
    for rank in range(world):
        own = Consumption()
        for step in steps:
            own.add(*plan.slice(step, rank, world))
        total += own
    return total


@given(st.integers(0, 21), st.integers(0, 21), st.lists(st.integers(1, 8), min_size=3, max_size=3))
def test_any_world_sizes_and_restarts_add_up(first, second, worlds):
    plan = make_plan()
    first, second = sorted((first, second))
    parts = [range(first), range(first, second), range(second, plan.num_steps)]
    total = Consumption()
    for steps, world in zip(parts, worlds, strict=True):
        total += consume(plan, steps, world)
    assert total == expected_consumption(plan, plan.num_steps)
    assert not any(epoch.finding for epoch in total.compare(expected_consumption(plan, plan.num_steps)))


@pytest.mark.parametrize("upto_step", [0, 1, 5, 6, 11, 21])
def test_expectation_of_a_begun_run(upto_step):
    plan = make_plan()
    assert consume(plan, range(upto_step), 2) == expected_consumption(plan, upto_step)


def test_missing_doubled_and_swapped_samples_show():
    plan = make_plan()
    expected = expected_consumption(plan, plan.num_steps)
    epochs, rows = plan.sequence(0, plan.num_steps * plan.global_batch)
    swapped = np.where(rows == rows[3], rows[4], rows)
    last = np.array([epochs[-1]])
    changes = (
        (epochs[:-2], rows[:-2], "2 missing"),
        (np.append(epochs, last), np.append(rows, rows[-1]), "1 doubled"),
        (epochs, swapped, "others than planned"),
    )
    for of_epochs, change, finding in changes:
        used = Consumption()
        used.add(of_epochs, change)
        assert finding in "".join(epoch.finding for epoch in used.compare(expected))


def test_compare_names_epochs_on_either_side():
    used, expected = Consumption(), Consumption()
    used.add(np.array([2, 2]), np.array([5, 5]))
    expected.add(np.array([1, 2]), np.array([5, 5]))
    assert [(audit.epoch, audit.finding) for audit in used.compare(expected)] == [(1, "1 missing"), (2, "1 doubled")]


def test_replaced_samples_are_counted_and_fulfil_the_plan():
    used, expected = Consumption(), Consumption()
    used.add(np.array([0, 0, 1]), np.array([5, 6, 6]), np.array([5, 9, 9]))
    expected.add(np.array([0, 0, 1]), np.array([5, 6, 6]))
    assert [(audit.used.replaced, audit.finding) for audit in used.compare(expected)] == [(1, ""), (1, "")]
    assert Consumption.from_dict((used + used).to_dict()).epochs[0].replaced == 2


def test_round_trip_through_json_keeps_64_bits():
    used = consume(make_plan(), range(7), 3)
    assert Consumption.from_dict(json.loads(json.dumps(used.to_dict()))) == used
    assert max(use.digest for use in used.epochs.values()) > 1 << 53


def test_hashes_of_near_pairs_do_not_cancel():
    sums = set()
    for a in range(20):
        for b in range(20):
            used = Consumption()
            used.add(np.array([0, 0]), np.array([a, b + 100]))
            sums.add(used.epochs[0].digest)
    assert len(sums) == 400
