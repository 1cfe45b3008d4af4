"""Step 2.2, clusters: k-means over the features of all training images, and the images nearest to each centroid."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import safetensors.numpy
from jaxtyping import Float32, Int64

from luss_ray.clustering.actors import DistributedKMeans
from luss_ray.clustering.assign import NUM_NEAREST, ClusterPart, Clusters, assign_file
from luss_ray.clustering.features import FeatureFiles
from luss_ray.clustering.merge import merge_clusters
from luss_ray.core.progress import StageProgress
from luss_ray.metrics.neighbours import clustering_accuracy, normalised_mutual_information
from luss_ray.stages.extract import feature_file
from luss_ray.stages.run import Finished, Run
from luss_ray.storage.uri import Location
from luss_ray.train.refusals import user_errors

CENTROIDS, CLUSTERS = "centroids.safetensors", "clusters.json"
MARGIN_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""What is kept of the margins: how far ahead an image's centroid is of the next cluster's, in cosine."""


def cluster(run: Run, prefix: str, features: Finished) -> Finished:
    """Return the stage that finds the clusters: centroids, sizes, nearest images."""
    split = run.data.split("train")
    files = [feature_file(split, number) for number in range(len(split.shards))]
    settings = run.recipe.clustering

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        loader = FeatureFiles(features.folder, features.inputs)
        with (
            user_errors(),
            StageProgress(f"{prefix}cluster", settings.num_iterations + 1, "iterations") as progress,
            kmeans_actors(run, loader, files) as kmeans,
        ):
            found = kmeans.fit(
                run.num_clusters * settings.parts_per_cluster,
                restarts=settings.num_restarts,
                iterations=settings.num_iterations,
                seed=run.recipe.seed,
                tolerance=settings.tolerance,
                drop_hopeless=settings.drop_hopeless,
                callback=lambda iteration, inertia: progress.update(iteration + 1, inertia=min(inertia)),
            )
        clusters = Clusters.of(found.centroids)
        if settings.parts_per_cluster > 1:
            sizes = find_members(loader, files, clusters).sizes
            clusters = Clusters(found.centroids, merge_clusters(found.centroids, sizes, run.num_clusters))
        folder.write(
            CENTROIDS, safetensors.numpy.save({"centroids": clusters.centroids, "clusters": clusters.clusters})
        )
        members = find_members(loader, files, clusters)
        folder.write_json(CLUSTERS, members.to_json() | {"history": found.history, "dropped_at": found.dropped_at})
        about = {"images": found.num_rows, "inertia": found.inertia, "restart": found.restart}
        known = (split.class_ids > 0) & (members.clusters >= 0)
        if known.any():
            guesses, classes = members.clusters[known], split.class_ids[known]
            about["image_accuracy"] = round(clustering_accuracy(guesses, classes), 2)
            about["nmi"] = round(normalised_mutual_information(guesses, classes), 4)
        return about

    inputs = {"features": features.inputs, "clustering": settings, "num_clusters": run.num_clusters}
    return run.stage(f"{prefix}clusters", inputs, work)


def kmeans_actors(run: Run, loader: FeatureFiles, files: list[str]) -> DistributedKMeans:
    """Return k-means over feature files, on as many of the cluster's actors and GPUs as the run may have."""
    num_gpus = 1 if run.resources.use_gpu else 0
    return DistributedKMeans(loader, files, num_actors=run.resources.num_actors, num_gpus=num_gpus)


def read_clusters(clusters: Finished) -> Clusters:
    """Return the clusters that the stage left."""
    arrays = safetensors.numpy.load((clusters.folder / CENTROIDS).read())
    return Clusters(arrays["centroids"], arrays["clusters"])


@dataclass(frozen=True)
class Members:
    """All training images among N clusters."""

    sizes: Int64[np.ndarray, " N"]
    """Images of each cluster."""
    nearest: list[list[int]]
    """Rows of the images nearest to each centroid, the nearest first."""
    clusters: Int64[np.ndarray, " n"]
    """Cluster of each image, from 0; -1 where it couldn't be used."""
    margins: Float32[np.ndarray, " n"]
    """How far ahead the nearest centroid is of the second, in cosine; NaN where the image couldn't be used."""

    def to_json(self) -> dict[str, Any]:
        """Return what people look at: sizes, nearest, and quantiles of the margins, of all and of each cluster."""
        used = self.clusters >= 0
        by_cluster = [self.margins[self.clusters == number] for number in range(len(self.sizes))]
        return {
            "sizes": self.sizes.tolist(),
            "nearest": self.nearest,
            "margins": _quantiles(self.margins[used]),
            "margins_by_cluster": [_quantiles(margins) for margins in by_cluster],
        }


def _quantiles(values: Float32[np.ndarray, " n"]) -> list[float | None]:
    """Return those of `MARGIN_QUANTILES`, None of no values."""
    if not len(values):
        return [None] * len(MARGIN_QUANTILES)
    return np.quantile(values.astype(np.float64), MARGIN_QUANTILES).round(6).tolist()


def find_members(loader: FeatureFiles, files: list[str], found: Clusters) -> Members:
    """Return how all training images fall to the clusters, one Ray task a feature file."""
    task, shared = ray.remote(assign_file), ray.put(found)
    sizes = np.zeros(found.num, np.int64)
    best: list[list[tuple[float, int]]] = [[] for _ in sizes]
    clusters: list[np.ndarray] = []
    margins: list[np.ndarray] = []
    first = 0
    for answer in [task.remote(loader, name, shared) for name in files]:
        with user_errors():
            part: ClusterPart = ray.get(answer)
        sizes += part.sizes
        for number, images in enumerate(part.nearest):
            merged = best[number] + [(similarity, first + place) for similarity, place in images]
            best[number] = sorted(merged, key=lambda pair: (-pair[0], pair[1]))[:NUM_NEAREST]
        clusters.append(part.clusters)
        margins.append(part.margins)
        first += len(part.clusters)
    nearest = [[row for _, row in images] for images in best]
    return Members(sizes, nearest, np.concatenate(clusters), np.concatenate(margins))
