"""Label maps and masks as runs: stretches of pixels, row after row, that agree in every map."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Integer

from luss_ray.core.errors import UserError
from luss_ray.imagenet_s.masks import IGNORE


class Runs(NamedTuple):
    """R runs: what every pixel of a run has, and how many pixels that are. There are far fewer runs than pixels."""

    labels: Integer[np.ndarray, " R"]
    mask: Integer[np.ndarray, " R"]
    label_edge: Bool[np.ndarray, " R"]
    mask_edge: Bool[np.ndarray, " R"]
    pixels: Int64[np.ndarray, " R"]


def find_runs(
    labels: Integer[np.ndarray, "H W"],
    mask: Integer[np.ndarray, "H W"],
    label_edge: Bool[np.ndarray, "H W"],
    mask_edge: Bool[np.ndarray, "H W"],
) -> Runs:
    """Return the runs of one image; their pixels, one run after the other, are the image's, row by row.

    Args:
        labels: predicted ids.
        mask: ground truth.
        label_edge: pixels on the boundary of a predicted region.
        mask_edge: the same for the ground truth.
    """
    maps = [pixels.ravel() for pixels in (labels, mask, label_edge, mask_edge)]
    changes = np.zeros(labels.size, bool)
    changes[0] = True
    for pixels in maps:
        changes[1:] |= pixels[1:] != pixels[:-1]
    starts = np.flatnonzero(changes)
    labels, mask, label_edge, mask_edge = (pixels[starts] for pixels in maps)
    return Runs(labels, mask, label_edge, mask_edge, np.diff(starts, append=changes.size))


def mask_rows(
    mask: Integer[np.ndarray, " R"], num_categories: int
) -> tuple[Integer[np.ndarray, " G"], Integer[np.ndarray, " R"]]:
    """Return the categories present in a mask, ascending, and for each run which of them it is; G where ignored.

    Args:
        mask: 0 = other, 1..N, 1000 = ignore.
        num_categories: N.

    Raises:
        UserError: another id.
    """
    present = np.flatnonzero(np.bincount(mask))
    categories = present[present != IGNORE]
    if len(categories) and categories[-1] > num_categories:
        raise UserError(
            f"a mask holds id {categories[-1]} but there are {num_categories} categories: use the masks of this dataset"
        )
    lookup = np.full(IGNORE + 1, len(categories), np.intp)
    lookup[categories] = np.arange(len(categories))
    return categories, lookup[mask]
