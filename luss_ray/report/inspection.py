"""How good a run's clusters are: sizes, objective, margins, agreement with classes, what their labels cover."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from luss_ray.clustering.kmeans import normalise_rows
from luss_ray.core.errors import UserError
from luss_ray.metrics.neighbours import clustering_accuracy, normalised_mutual_information
from luss_ray.stages.cluster import CLUSTERS, read_centroids
from luss_ray.stages.coverage import THRESHOLDS
from luss_ray.stages.extract import feature_file
from luss_ray.stages.run import Finished
from luss_ray.storage.dataset import Split
from luss_ray.storage.uri import Location

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SAMPLE = 20_000
"""Images whose margins are looked at, at least: the first shards' are a fair sample, since packing shuffles."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What is known of a run's clusters; a part that its version did not record is empty or None."""

    sizes: list[int]
    """Training images of each cluster."""
    objective: list[list[float | None]]
    """Sum of squared distances by iteration, then by restart; None from where a restart was given up."""
    restart: int | None
    """The restart that won."""
    num_sampled: int
    """Images that margins and agreement are taken from."""
    margin: float
    """Median margin over the sample: an image's cosine to its centroid minus that to the second best."""
    margins: list[list[float] | None]
    """By cluster the `QUANTILES` of its images' margins: cosine to its centroid minus that to the second best; None
    where the sample has none of its images."""
    nmi: float | None
    """Normalised mutual information with the images' classes, 0..1; None without classes."""
    accuracy: float | None
    """Images in the class that their cluster is matched to one to one, percent; None without classes."""
    coverage: dict[float, float]
    """Share of training pixels that keep a label by threshold, percent."""
    examples: list[list[str]]
    """By cluster the keys of the images nearest to its centroid, nearest first."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as a dictionary for JSON."""
        return {**asdict(self), "quantiles": QUANTILES}


def inspect_clusters(run: Location, split: Split, *, sample: int = SAMPLE) -> Inspection:
    """Return what is known of a run's clusters.

    Args:
        run: folder of the run, with the stages of features and clusters finished.
        split: the training split that it is made from.
        sample: images to look at, at least; rounded up to whole shards.

    Raises:
        UserError: there are no clusters yet.
    """
    found = _read(run, f"clusters/{CLUSTERS}")
    about = _read(run, "clusters/stage.json")
    if not found or not about:
        raise UserError(f"{run.uri} has no clusters yet: run jobs/pass.py until that stage")
    centroids = read_centroids(Finished(folder=run / "clusters", inputs=about["inputs"], about=about))
    clusters, margins, classes = _sampled(run, split, centroids, sample)
    known = classes > 0
    return Inspection(
        sizes=found["sizes"],
        objective=_objective(found.get("history", []), found.get("dropped_at", [])),
        restart=about.get("restart"),
        num_sampled=len(clusters),
        margin=round(float(np.median(margins)), 4),
        margins=[_quantiles(margins[clusters == number]) for number in range(len(centroids))],
        nmi=round(normalised_mutual_information(clusters[known], classes[known]), 4) if known.any() else None,
        accuracy=round(clustering_accuracy(clusters[known], classes[known]), 2) if known.any() else None,
        coverage=dict(zip(THRESHOLDS, _read(run, "pseudo-labels/stage.json").get("coverage", []), strict=False)),
        examples=[[split.key(row) for row in rows] for rows in found["nearest"]],
    )


def _read(run: Location, name: str) -> dict[str, Any]:
    return run.read_json(name) if run.exists(name) else {}


def _objective(history: list[list[float]], dropped_at: list[int | None]) -> list[list[float | None]]:
    """Return the history without what follows the iteration at which a restart was given up."""
    last = {restart: iteration for restart, iteration in enumerate(dropped_at) if iteration is not None}
    return [
        [None if iteration > last.get(restart, iteration) else value for restart, value in enumerate(values)]
        for iteration, values in enumerate(history)
    ]


def _sampled(
    run: Location, split: Split, centroids: Float32[np.ndarray, "k C"], sample: int
) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Return cluster (from 0), margin and class id (0 = none) of the readable images of the first shards."""
    directions, parts, num = normalise_rows(centroids).T, [], 0
    for shard in range(len(split.shards)):
        table = (run / "features").read_table(feature_file(split, shard))
        valid = table["valid"].to_numpy()
        rows = table["feature"].combine_chunks().flatten().to_numpy().reshape(len(valid), -1)[valid]
        cosines = normalise_rows(rows) @ directions
        second, best = np.partition(cosines, -2, axis=1)[:, -2:].T
        parts.append((cosines.argmax(axis=1), best - second, split.class_ids[split.shard_rows(shard)][valid]))
        num += len(rows)
        if num >= sample:
            break
    clusters, margins, classes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return clusters, margins, classes


def _quantiles(margins: Float32[np.ndarray, " n"]) -> list[float] | None:
    return np.quantile(margins, QUANTILES).round(4).tolist() if len(margins) else None
