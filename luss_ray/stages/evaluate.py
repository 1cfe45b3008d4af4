"""Scores predictions against the validation masks: match clusters to categories, then count; one Ray task a shard."""

from typing import Any

import numpy as np
import ray

from luss_ray.imagenet_s import masks
from luss_ray.metrics.matching import MatchingCounts, match_by_images, matching_total
from luss_ray.metrics.scores import Scores
from luss_ray.metrics.segmentation import SegmentationCounts
from luss_ray.stages.run import Finished, Run
from luss_ray.storage.dataset import Split
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.uri import Location

METRICS = "metrics.json"


def count_cooccurrence(predictions: LabelShards, shard: int, num_categories: int, num_clusters: int) -> MatchingCounts:
    """Return how often each cluster and category are seen in one image of a shard."""
    counts = MatchingCounts(num_clusters=num_clusters, num_categories=num_categories)
    for _, prediction, mask in _pairs(predictions, shard):
        counts.update(prediction, mask)
    return counts


def count_segmentation(
    predictions: LabelShards, shard: int, num_categories: int, mapping: np.ndarray
) -> SegmentationCounts:
    """Return the counts of a shard's predictions after matching."""
    counts = SegmentationCounts(num_categories)
    for _, prediction, mask in _pairs(predictions, shard):
        counts.update(prediction, mask, mapping=mapping)
    return counts


def count_baselines(split: Split, shard: int, num_categories: int) -> dict[str, SegmentationCounts]:
    """Return the counts of a shard for what knows nothing, and for what knows the image's true category alone."""
    counts = {"other": SegmentationCounts(num_categories), "whole_image": SegmentationCounts(num_categories)}
    rows = split.shard_rows(shard)
    for row, data in zip(rows.tolist(), split.read_masks(rows), strict=True):
        if data is not None:
            mask = masks.decode(data)
            counts["other"].update(np.zeros_like(mask), mask)
            counts["whole_image"].update(np.full_like(mask, split.class_ids[row]), mask)
    return counts


def evaluate(run: Run, prefix: str, predictions: Finished) -> Finished:
    """Return the stage that scores the predictions on the validation split."""
    split = run.data.split("validation")
    num_categories = len(run.data.categories)

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        shards = range(len(split.shards))
        predicted = ray.put(LabelShards(predictions.folder, split))
        matching, segmentation = ray.remote(count_cooccurrence), ray.remote(count_segmentation)
        seen = MatchingCounts(num_clusters=run.num_clusters, num_categories=num_categories)
        for counts in ray.get([matching.remote(predicted, n, num_categories, run.num_clusters) for n in shards]):
            seen = seen + counts
        mapping = match_by_images(seen)
        total = SegmentationCounts(num_categories)
        for counts in ray.get([segmentation.remote(predicted, n, num_categories, mapping) for n in shards]):
            total = total + counts
        folder.write_json(
            METRICS,
            {
                "scores": total.compute().to_json(),
                "matching": mapping.tolist(),
                "matching_total": matching_total(seen.images, mapping),
                "protocol": "image-level one-to-one matching on validation",
            },
        )
        return {"images": len(split)}

    return run.stage(f"{prefix}evaluation", {"predictions": predictions.inputs}, work)


def score_baselines(run: Run) -> Finished:
    """Return the stage that scores the baselines, which depend on the data alone."""
    split = run.data.split("validation")
    num_categories = len(run.data.categories)

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        task = ray.remote(count_baselines)
        totals = {name: SegmentationCounts(num_categories) for name in ("other", "whole_image")}
        for part in ray.get([task.remote(split, shard, num_categories) for shard in range(len(split.shards))]):
            totals = {name: counts + part[name] for name, counts in totals.items()}
        folder.write_json(METRICS, {name: counts.compute().to_json() for name, counts in totals.items()})
        return {"images": len(split)}

    return run.stage("baselines", {}, work)


def read_scores(evaluation: Finished) -> Scores:
    """Return the scores of a finished evaluation."""
    return Scores.from_json((evaluation.folder / METRICS).read_json()["scores"])


def _pairs(predictions: LabelShards, shard: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Return (row, prediction, mask) of the samples of a shard that have a mask; a missing prediction is all other."""
    split = predictions.split
    rows = split.shard_rows(shard)
    encoded = zip(rows.tolist(), predictions.read(rows), split.read_masks(rows), strict=True)
    pairs = [(row, label, masks.decode(mask)) for row, label, mask in encoded if mask is not None]
    return [(row, masks.decode(label) if label else np.zeros_like(mask), mask) for row, label, mask in pairs]
