"""How the images of one feature file fall to the clusters. Runs in Ray tasks: nothing slow to import is needed here."""

from dataclasses import dataclass

import faiss
import numpy as np
from jaxtyping import Float32, Integer

from luss_ray.clustering.features import FeatureFiles
from luss_ray.clustering.kmeans import normalise_rows

NUM_NEAREST = 8
"""Images kept as a cluster's nearest."""


@dataclass(frozen=True)
class ClusterPart:
    """The images of one feature file among N clusters."""

    sizes: Integer[np.ndarray, " N"]
    """Images of each cluster."""
    nearest: list[list[tuple[float, int]]]
    """For each cluster the best (cosine, place in the file)."""
    clusters: Integer[np.ndarray, " n"]
    """Cluster of each image of the file, from 0; -1 where the image couldn't be used."""
    margins: Float32[np.ndarray, " n"]
    """How far ahead the nearest centroid is of the second, in cosine; NaN where the image couldn't be used."""


def assign_file(loader: FeatureFiles, name: str, centroids: Float32[np.ndarray, "N C"]) -> ClusterPart:
    """Return how the images of one file fall to the centroids by cosine, found by faiss' exact search."""
    faiss.omp_set_num_threads(1)
    rows, valid = loader.read(name)
    directions = normalise_rows(centroids)
    cosines, found = faiss.knn(rows, directions, min(2, len(directions)), metric=faiss.METRIC_INNER_PRODUCT)
    clusters = np.where(valid, found[:, 0], -1)
    nearest = []
    for number in range(len(centroids)):
        members = np.flatnonzero(clusters == number)
        best = members[np.argsort(-cosines[members, 0], kind="stable")[:NUM_NEAREST]]
        nearest.append([(float(cosines[place, 0]), int(place)) for place in best])
    margins = np.where(valid, cosines[:, 0] - cosines[:, -1], np.nan).astype(np.float32)
    return ClusterPart(np.bincount(clusters[valid], minlength=len(centroids)), nearest, clusters, margins)
