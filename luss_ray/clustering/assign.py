"""How the images of one feature file fall to the clusters. Runs in Ray tasks: nothing slow to import is needed here."""

from dataclasses import dataclass

import faiss
import numpy as np
from jaxtyping import Float32, Int64, Integer

from luss_ray.clustering.features import FeatureFiles
from luss_ray.clustering.kmeans import normalise_rows

NUM_NEAREST = 8
"""Images kept as a cluster's nearest."""


@dataclass(frozen=True)
class Clusters:
    """N clusters, each of one centroid or of several: k-means may look for more of them than there are categories."""

    centroids: Float32[np.ndarray, "M C"]
    clusters: Int64[np.ndarray, " M"]
    """Cluster of each centroid, 0 .. N - 1."""

    @classmethod
    def of(cls, centroids: Float32[np.ndarray, "N C"]) -> "Clusters":
        """Return clusters of one centroid each."""
        return cls(centroids, np.arange(len(centroids)))

    @property
    def num(self) -> int:
        """Clusters, N."""
        return int(self.clusters.max()) + 1


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
    """How far ahead its nearest centroid is of the nearest of another cluster, in cosine; NaN where the image couldn't
    be used."""


def assign_file(loader: FeatureFiles, name: str, found: Clusters) -> ClusterPart:
    """Return how the images of one file fall to the clusters by cosine, found by faiss' exact search."""
    faiss.omp_set_num_threads(1)
    rows, valid = loader.read(name)
    # Among so many centroids there is one of another cluster.
    num_searched = min(int(np.bincount(found.clusters).max()) + 1, len(found.centroids))
    directions = normalise_rows(found.centroids)
    cosines, centroids = faiss.knn(rows, directions, num_searched, metric=faiss.METRIC_INNER_PRODUCT)
    ranked = found.clusters[centroids]
    clusters = np.where(valid, ranked[:, 0], -1)
    nearest = []
    for number in range(found.num):
        members = np.flatnonzero(clusters == number)
        best = members[np.argsort(-cosines[members, 0], kind="stable")[:NUM_NEAREST]]
        nearest.append([(float(cosines[place, 0]), int(place)) for place in best])
    rival = (ranked != ranked[:, :1]).argmax(axis=1)
    margins = np.where(valid, cosines[:, 0] - cosines[np.arange(len(rows)), rival], np.nan).astype(np.float32)
    return ClusterPart(np.bincount(clusters[valid], minlength=found.num), nearest, clusters, margins)
