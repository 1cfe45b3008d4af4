"""How well an order mixes classes, as a number."""

import numpy as np
from jaxtyping import Int

WINDOW = 256


def clumping(class_ids: Int[np.ndarray, " n"], window: int = WINDOW) -> float:
    """Return how much more the class counts of consecutive windows vary than those of independent draws would.

    It is Pearson's chi-squared statistic of each window of consecutive samples against the whole sequence's class
    shares, over its expectation, averaged over the windows: 1 for independent draws, a little less for a perfect
    shuffle (drawn without replacement), and up to `window` where every window holds one class.

    Args:
        class_ids: of the samples, in the order in which they are used.
        window: samples in a window; shorter sequences are one window.

    Source: chi-squared test of homogeneity.
    """
    _, classes = np.unique(class_ids, return_inverse=True)
    shares = np.bincount(classes) / max(1, len(classes))
    if len(shares) < 2:
        return 1.0
    window = min(window, len(classes))
    num_windows = len(classes) // window
    counts = np.zeros((num_windows, len(shares)))
    np.add.at(counts, (np.arange(num_windows * window) // window, classes[: num_windows * window]), 1)
    expected = window * shares
    return float((((counts - expected) ** 2 / expected).sum(axis=1) / (len(shares) - 1)).mean())
