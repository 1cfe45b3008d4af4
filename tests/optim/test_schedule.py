from itertools import pairwise

import numpy as np
import pytest

from luss_ray.optim.schedule import cosine_rate


def test_equals_the_published_schedule(golden):
    arrays = np.load(golden / "method" / "lr.npz")
    for case in range(3):
        per_epoch, epochs, warmup, base, final, start = arrays[f"c{case}_cfg"]
        num_steps = int(per_epoch * epochs)
        found = [
            cosine_rate(
                step,
                num_steps=num_steps,
                base=base,
                final=final,
                num_warmup_steps=int(per_epoch * warmup),
                start=start,
            )
            for step in range(num_steps)
        ]
        np.testing.assert_allclose(found, arrays[f"c{case}_lr"], rtol=1e-9, atol=1e-12)


def test_starts_at_the_base_and_ends_near_the_final_rate():
    rates = [cosine_rate(step, num_steps=100, base=0.6, final=0.0006) for step in range(101)]
    assert rates[0] == 0.6
    assert rates[50] == pytest.approx((0.6 + 0.0006) / 2)
    assert rates[100] == pytest.approx(0.0006)
    assert all(a > b for a, b in pairwise(rates))


def test_warm_up_reaches_the_base_rate():
    rates = [cosine_rate(step, num_steps=20, base=1.0, num_warmup_steps=5, start=0.2) for step in range(6)]
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_one_step_of_warm_up_is_possible():
    assert cosine_rate(0, num_steps=2, base=1.0, num_warmup_steps=1, start=0.3) == 0.3
