"""Scores predictions in shards against the masks of their split: counted once, over the cluster, then matched."""

import pickle
from typing import Any

import numpy as np
import ray
import ray.data
from ray.data import DataContext

from luss_ray.core.progress import StageProgress
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.label_files import MISSING, LabelledImage
from luss_ray.metrics.evaluation import Matching, Question, Tally
from luss_ray.metrics.segmentation import SegmentationCounts
from luss_ray.stages.run import Finished, Run
from luss_ray.stages.shards import decoded_mask
from luss_ray.storage.dataset import Split
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.uri import Location
from luss_ray.train.refusals import user_errors

METRICS = "metrics.json"


def count_shard(predictions: LabelShards, shard: int, question: Question) -> Tally:
    """Return the counts of one shard; samples without a mask are left out, a missing prediction is all other."""
    tally, split = question.tally(), predictions.split
    rows = split.shard_rows(shard)
    for row, label, mask in zip(rows.tolist(), predictions.read(rows), split.read_masks(rows), strict=True):
        if mask is not None:
            if label is None:
                tally.findings.add(MISSING, split.key(row))
            ids = masks.decode(label) if label else None
            truth = decoded_mask(split, row, mask)
            tally.add(LabelledImage(name=split.key(row), prediction=ids, mask=truth))
    return tally


def score_shards(predictions: LabelShards, question: Question) -> Tally:
    """Return the counts of a whole split's predictions, its shards spread over the cluster by Ray Data."""
    shared = ray.put(predictions)

    def count(row: dict[str, Any]) -> dict[str, Any]:
        return {"tally": pickle.dumps(count_shard(ray.get(shared), row["shard"], question))}

    DataContext.get_current().enable_progress_bars = False
    shards = range(len(predictions.split.shards))
    rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    total = question.tally()
    with StageProgress("evaluation", len(shards), "shards") as progress, user_errors():
        for done, row in enumerate(rows.map(count, num_cpus=1).iter_rows(), 1):
            total += pickle.loads(row["tally"])
            progress.update(done)
    return total


def count_baselines(split: Split, shard: int, num_categories: int) -> dict[str, SegmentationCounts]:
    """Return the counts of a shard for what knows nothing, and for what knows the image's true category alone."""
    counts = {"other": SegmentationCounts(num_categories), "whole_image": SegmentationCounts(num_categories)}
    rows = split.shard_rows(shard)
    for row, data in zip(rows.tolist(), split.read_masks(rows), strict=True):
        if data is not None:
            mask = decoded_mask(split, row, data)
            counts["other"].update(np.zeros_like(mask), mask)
            counts["whole_image"].update(np.full_like(mask, split.class_ids[row]), mask)
    return counts


def evaluate(run: Run, prefix: str, predictions: Finished, *, matching: Matching = Matching.IMAGES) -> Finished:
    """Return the stage that scores the predictions on the validation split.

    Args:
        run: whose data.
        prefix: of the stage's name.
        predictions: to be scored.
        matching: how clusters become categories; `NONE` where the predicted ids are categories.
    """
    split = run.data.split("validation")
    num_categories, clustered = len(run.data.categories), matching is not Matching.NONE
    num_clusters = run.num_clusters if clustered else num_categories
    question = Question(num_categories=num_categories, num_clusters=num_clusters, matching=matching)

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        evaluation = score_shards(LabelShards(predictions.folder, split), question).evaluation()
        about: dict[str, Any] = {"scores": evaluation.scores.to_json(), "protocol": "predicted ids are categories"}
        if evaluation.mapping is not None:
            about |= {
                "matching": evaluation.mapping.tolist(),
                "matching_total": evaluation.matching_total,
                "protocol": "image-level one-to-one matching on validation",
            }
        folder.write_json(METRICS, about)
        return {"images": len(split)}

    inputs = {"predictions": predictions.inputs} | ({} if clustered else {"matching": matching})
    return run.stage(f"{prefix}evaluation", inputs, work)


def score_baselines(run: Run) -> Finished:
    """Return the stage that scores the baselines, which depend on the data alone."""
    split = run.data.split("validation")
    num_categories = len(run.data.categories)

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        task = ray.remote(count_baselines)
        totals = {name: SegmentationCounts(num_categories) for name in ("other", "whole_image")}
        with user_errors():
            parts = ray.get([task.remote(split, shard, num_categories) for shard in range(len(split.shards))])
        for part in parts:
            totals = {name: counts + part[name] for name, counts in totals.items()}
        folder.write_json(METRICS, {name: counts.compute().to_json() for name, counts in totals.items()})
        return {"images": len(split)}

    return run.stage("baselines", {}, work)
