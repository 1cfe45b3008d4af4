"""Counts the pseudo-labels of a run in one pass over their shards, in Ray tasks that import nothing slow."""

import io

import numpy as np
import ray

from luss_ray.imagenet_s.soft_label import SoftLabel
from luss_ray.metrics.coverage import LabelCounts
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.store import be_patient
from luss_ray.storage.uri import Location

COUNTS = "counts.npz"
THRESHOLDS = tuple(level / 100 for level in range(101))
"""Where coverage is told: the sweep's grid, to its end."""
_MAX_TASKS = 64


def count_labels(labels: LabelShards, num_clusters: int) -> tuple[LabelCounts, int]:
    """Return the counts over all shards of a stage of pseudo-labels, and their bytes; the counts stay in its folder."""
    numbers = np.arange(len(labels.split.shards))
    task = ray.remote(_count_shards)
    answers = [
        task.remote(labels, part.tolist(), num_clusters)
        for part in np.array_split(numbers, min(_MAX_TASKS, len(numbers)))
    ]
    counts, num_bytes = LabelCounts(num_clusters), 0
    for answer in answers:
        part, size_bytes = ray.get(answer)
        counts, num_bytes = counts + part, num_bytes + size_bytes
    buffer = io.BytesIO()
    np.savez_compressed(buffer, pixels=counts.pixels)
    labels.location.write(COUNTS, buffer.getvalue())
    return counts, num_bytes


def read_label_counts(folder: Location) -> LabelCounts:
    """Return what `count_labels` left in a stage's folder."""
    with np.load(io.BytesIO(folder.read(COUNTS)), allow_pickle=False) as arrays:
        pixels = arrays["pixels"]
    counts = LabelCounts(len(pixels))
    counts.pixels = pixels
    return counts


def _count_shards(labels: LabelShards, shards: list[int], num_clusters: int) -> tuple[LabelCounts, int]:
    be_patient()
    counts = LabelCounts(num_clusters)
    for shard in shards:
        for data in labels.read(labels.split.shard_rows(shard)):
            if data is not None:
                counts.update(SoftLabel.decode(data))
    return counts, sum(map(labels.size_bytes, shards))
