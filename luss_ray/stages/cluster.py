"""Step 2.2, clusters: k-means over the features of all training images, and the images nearest to each centroid."""

from typing import Any

import numpy as np
import ray
import safetensors.numpy

from luss_ray.clustering.actors import DistributedKMeans
from luss_ray.clustering.assign import NUM_NEAREST, ClusterPart, assign_file
from luss_ray.clustering.features import FeatureFiles
from luss_ray.core.progress import StageProgress
from luss_ray.metrics.neighbours import clustering_accuracy
from luss_ray.stages.extract import feature_file
from luss_ray.stages.run import Finished, Run
from luss_ray.storage.uri import Location
from luss_ray.train.refusals import user_errors

CENTROIDS, CLUSTERS = "centroids.safetensors", "clusters.json"


def cluster(run: Run, prefix: str, features: Finished) -> Finished:
    """Return the stage that finds the clusters: centroids, sizes, nearest images."""
    split = run.data.split("train")
    files = [feature_file(split, number) for number in range(len(split.shards))]
    settings = run.recipe.clustering

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        loader = FeatureFiles(features.folder)
        with (
            user_errors(),
            StageProgress(f"{prefix}cluster", settings.num_iterations + 1, "iterations") as progress,
            DistributedKMeans(
                loader,
                files,
                num_actors=run.resources.num_actors,
                num_gpus=1 if run.resources.use_gpu else 0,
            ) as kmeans,
        ):
            found = kmeans.fit(
                run.num_clusters,
                restarts=settings.num_restarts,
                iterations=settings.num_iterations,
                seed=run.recipe.seed,
                tolerance=settings.tolerance,
                callback=lambda iteration, inertia: progress.update(iteration + 1, inertia=min(inertia)),
            )
        folder.write(CENTROIDS, safetensors.numpy.save({"centroids": found.centroids}))
        sizes, nearest, clusters = _members(loader, files, found.centroids)
        folder.write_json(CLUSTERS, {"sizes": sizes, "nearest": nearest})
        about = {"images": found.num_rows, "inertia": found.inertia, "restart": found.restart}
        known = (split.class_ids > 0) & (clusters >= 0)
        if known.any():
            accuracy = clustering_accuracy(clusters[known], split.class_ids[known])
            about["image_accuracy"] = round(accuracy, 2)
        return about

    inputs = {"features": features.inputs, "clustering": settings, "num_clusters": run.num_clusters}
    return run.stage(f"{prefix}clusters", inputs, work)


def read_centroids(clusters: Finished) -> np.ndarray:
    """Return the centroids (k, C), float32."""
    return safetensors.numpy.load((clusters.folder / CENTROIDS).read())["centroids"]


def _members(
    loader: FeatureFiles, files: list[str], centroids: np.ndarray
) -> tuple[list[int], list[list[int]], np.ndarray]:
    """Return each cluster's size, the rows of the images nearest to it, and every image's cluster."""
    task, shared = ray.remote(assign_file), ray.put(centroids)
    sizes = np.zeros(len(centroids), np.int64)
    best: list[list[tuple[float, int]]] = [[] for _ in centroids]
    clusters: list[np.ndarray] = []
    first = 0
    for answer in [task.remote(loader, name, shared) for name in files]:
        with user_errors():
            part: ClusterPart = ray.get(answer)
        sizes += part.sizes
        for number, found in enumerate(part.nearest):
            merged = best[number] + [(similarity, first + place) for similarity, place in found]
            best[number] = sorted(merged, key=lambda pair: (-pair[0], pair[1]))[:NUM_NEAREST]
        clusters.append(part.clusters)
        first += len(part.clusters)
    return sizes.tolist(), [[row for _, row in found] for found in best], np.concatenate(clusters)
