import numpy as np

from luss_ray.core.seeds import COLOURS, CROPS, generator, uniforms


def test_draws_are_a_function_of_the_sample_alone():
    whole = uniforms(7, CROPS, [0, 1, 2, 2], [5, 6, 7, 8], 10)
    alone = np.concatenate([uniforms(7, CROPS, [e], [i], 10) for e, i in ((0, 5), (1, 6), (2, 7), (2, 8))])
    np.testing.assert_array_equal(whole, alone)
    np.testing.assert_array_equal(whole[:, :4], uniforms(7, CROPS, [0, 1, 2, 2], [5, 6, 7, 8], 4))


def test_purposes_epochs_samples_and_seeds_are_independent():
    draws = [
        uniforms(seed, purpose, [epoch], [index], 50)
        for seed in (1, 2)
        for purpose in (CROPS, COLOURS)
        for epoch in (0, 1)
        for index in (0, 1)
    ]
    assert len({row.tobytes() for row in draws}) == len(draws)
    assert generator(1, 2, 3).random() == generator(1, 2, 3).random() != generator(1, 3, 2).random()


def test_draws_are_uniform():
    draws = uniforms(3, CROPS, [0] * 4000, range(4000), 5)
    assert draws.min() >= 0 and draws.max() < 1
    np.testing.assert_allclose(
        np.quantile(draws, [0.1, 0.5, 0.9], axis=0), [[0.1] * 5, [0.5] * 5, [0.9] * 5], atol=0.03
    )
