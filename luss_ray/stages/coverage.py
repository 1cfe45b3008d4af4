"""Counts the pseudo-labels of a run in one pass over their shards, in Ray tasks that import nothing slow."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

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


@dataclass
class Census:
    """What label shards hold; `+` adds those of other shards."""

    counts: LabelCounts
    num_bytes: int = 0
    """Of the shards and their indices."""
    unlabelled: list[str] = field(default_factory=list)
    """Shard URI#key of each sample without a label, because its image is unreadable."""

    def __add__(self, other: "Census") -> "Census":
        return Census(self.counts + other.counts, self.num_bytes + other.num_bytes, self.unlabelled + other.unlabelled)


def count_labels(labels: LabelShards, num_clusters: int) -> Census:
    """Return what all shards of a stage of pseudo-labels hold; the counts stay in its folder."""
    numbers = np.arange(len(labels.split.shards))
    task = ray.remote(count_shards)
    answers = [
        task.remote(labels, part.tolist(), num_clusters)
        for part in np.array_split(numbers, min(_MAX_TASKS, len(numbers)))
    ]
    census = sum((ray.get(answer) for answer in answers), Census(LabelCounts(num_clusters)))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, pixels=census.counts.pixels)
    labels.location.write(COUNTS, buffer.getvalue())
    return census


def count_shards(labels: LabelShards, shards: Sequence[int], num_clusters: int) -> Census:
    """Return what some shards hold."""
    be_patient()
    census = Census(LabelCounts(num_clusters), num_bytes=sum(map(labels.size_bytes, shards)))
    for shard in shards:
        rows = labels.split.shard_rows(shard)
        for row, data in zip(rows, labels.read(rows), strict=True):
            if data is None:
                census.unlabelled.append(labels.split.sample_uri(row))
            else:
                census.counts.update(SoftLabel.decode(data))
    return census


def read_label_counts(folder: Location) -> LabelCounts:
    """Return what `count_labels` left in a stage's folder."""
    with np.load(io.BytesIO(folder.read(COUNTS)), allow_pickle=False) as arrays:
        pixels = arrays["pixels"]
    counts = LabelCounts(len(pixels))
    counts.pixels = pixels
    return counts
