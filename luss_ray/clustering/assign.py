"""How the images of one feature file fall to the clusters. Runs in Ray tasks: nothing slow to import is needed here."""

from dataclasses import dataclass

import numpy as np

from luss_ray.clustering.features import FeatureFiles
from luss_ray.clustering.kmeans import normalise_rows

NUM_NEAREST = 8
"""Images kept as a cluster's nearest."""


@dataclass(frozen=True)
class ClusterPart:
    """The images of one feature file among the clusters."""

    sizes: np.ndarray
    """Images of each cluster (k,)."""
    nearest: list[list[tuple[float, int]]]
    """For each cluster the best (cosine, place in the file)."""
    clusters: np.ndarray
    """Cluster of each image of the file, from 0; -1 where the image couldn't be used."""


def assign_file(loader: FeatureFiles, name: str, centroids: np.ndarray) -> ClusterPart:
    """Return how the images of one file fall to the centroids by cosine."""
    table = loader.location.read_table(name)
    valid = table["valid"].to_numpy()
    rows = normalise_rows(table[loader.column].combine_chunks().flatten().to_numpy().reshape(len(valid), -1))
    similarity = rows @ normalise_rows(centroids).T
    clusters = np.where(valid, similarity.argmax(axis=1), -1)
    nearest = []
    for number in range(len(centroids)):
        members = np.flatnonzero(clusters == number)
        best = members[np.argsort(-similarity[members, number], kind="stable")[:NUM_NEAREST]]
        nearest.append([(float(similarity[place, number]), int(place)) for place in best])
    return ClusterPart(np.bincount(clusters[valid], minlength=len(centroids)), nearest, clusters)
