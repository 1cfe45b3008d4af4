"""Step 2.2 without a number of categories: k-means with several, of which the one with the best silhouette is taken."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from jaxtyping import Float32

from luss_ray.clustering.features import FeatureFiles
from luss_ray.clustering.kmeans import normalise_rows
from luss_ray.core.progress import StageProgress
from luss_ray.core.seeds import CLUSTERS, generator
from luss_ray.stages.cluster import kmeans_actors
from luss_ray.stages.extract import feature_file
from luss_ray.stages.run import ESTIMATE, Finished, Run
from luss_ray.storage.uri import Location
from luss_ray.train.refusals import user_errors

SAMPLE = 4000
"""Images whose silhouettes are worked out: their number squared is what that takes."""
_RESTARTS = 5


def estimate(run: Run, features: Finished) -> Finished:
    """Return the stage that says how many clusters to look for: `chosen`, and `silhouettes` by number.

    Source: Rousseeuw, "Silhouettes", 1987: the mean over images of how much nearer the other images of its cluster are
    than those of the next cluster, here as cosine distances of a sample.
    """
    split = run.data.split("train")
    files = [feature_file(split, number) for number in range(len(split.shards))]
    tried = usable_candidates(run.recipe.category_candidates, len(split))
    seed = run.recipe.seed

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        loader = FeatureFiles(features.folder, features.inputs)
        with (
            user_errors(),
            StageProgress(ESTIMATE, sum(tried), "clusters tried") as progress,
            kmeans_actors(run, loader, files) as kmeans,
        ):
            sample, scores = _sample(loader, files, seed), []
            for place, number in enumerate(tried, start=1):
                found = kmeans.fit(
                    number, restarts=_RESTARTS, iterations=run.recipe.clustering.num_iterations, seed=seed
                )
                scores.append(round(silhouette(sample, found.centroids), 4))
                progress.update(sum(tried[:place]))
        chosen = tried[int(np.argmax(scores))]
        silhouettes = {str(number): score for number, score in zip(tried, scores, strict=True)}
        return {"images": len(split), "chosen": chosen, "silhouettes": silhouettes}

    inputs = {"features": features.inputs, "tried": tried, "iterations": run.recipe.clustering.num_iterations}
    return run.stage(ESTIMATE, inputs | {"seed": seed}, work)


def usable_candidates(candidates: Sequence[int], num_images: int) -> list[int]:
    """Return, ascending, the numbers of clusters that leave four images to each, but at least the smallest."""
    ascending = sorted(set(candidates))
    return [number for number in ascending if 4 * number <= num_images] or ascending[:1]


def silhouette(rows: Float32[np.ndarray, "n C"], centroids: Float32[np.ndarray, "k C"]) -> float:
    """Return the mean silhouette, -1 .. 1, of rows of length 1 that fall to the centroid of the largest cosine."""
    clusters = (rows @ normalise_rows(centroids).T).argmax(axis=1)
    if not 1 < len(np.unique(clusters)) < len(rows):
        return -1.0
    # Imported here since it takes seconds, and most runs know their number.
    from sklearn.metrics import silhouette_score  # noqa: PLC0415

    return float(silhouette_score(rows, clusters, metric="cosine"))


def _sample(loader: FeatureFiles, files: Sequence[str], seed: int) -> Float32[np.ndarray, "n C"]:
    """Return as many rows of each file, about `SAMPLE` in all; a Ray task a file."""
    task, each = ray.remote(_rows_of), -(-SAMPLE // len(files))
    return np.concatenate(ray.get([task.remote(loader, name, each, (seed, at)) for at, name in enumerate(files)]))


def _rows_of(loader: FeatureFiles, name: str, num: int, seed: tuple[int, int]) -> Float32[np.ndarray, "n C"]:
    rows = loader(name)
    return rows[generator(seed[0], CLUSTERS, seed[1]).permutation(len(rows))[:num]]
