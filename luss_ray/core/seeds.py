"""Randomness as a pure function of (seed, epoch, sample index), never of rank, worker or timing."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def generator(seed: int, *words: int) -> np.random.Generator:
    """Return the random generator of one purpose, the same on every machine.

    Args:
        seed: the run's seed.
        words: whole numbers that name the purpose, e.g. (purpose, epoch, sample index).
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy=seed, spawn_key=words)))


def uniforms(
    seed: int, purpose: int, epochs: Sequence[int], indices: Sequence[int], num: int
) -> Float[np.ndarray, "n num"]:
    """Return `num` float64 draws in [0, 1) for each (epoch, sample index) pair, independent of how pairs are batched.

    Args:
        seed: the run's seed.
        purpose: one of the constants below; draws of different purposes are independent.
        epochs: epoch of each sample, n of them.
        indices: position of each sample in the dataset's index, n of them.
        num: draws per sample.
    """
    out = np.empty((len(indices), num))
    for row, epoch, index in zip(out, epochs, indices, strict=True):
        philox = np.random.Philox(key=np.array([seed, purpose], np.uint64), counter=[0, 0, int(epoch), int(index)])
        np.random.Generator(philox).random(out=row)
    return out


CROPS, COLOURS, ORDER, WEIGHTS, CLUSTERS, DROP_PATH = range(6)
