"""Step 2.3: the attention below which a pixel is "other", in one pass over the validation images."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from luss_ray.clustering.assign import Clusters
from luss_ray.clustering.features import FeatureFiles
from luss_ray.config.recipe import Recipe, ThresholdChoice
from luss_ray.metrics.curve import Curve, ThresholdCurve
from luss_ray.metrics.threshold import AttentionHistogram, otsu
from luss_ray.stages.attend import Attender
from luss_ray.stages.cluster import read_clusters
from luss_ray.stages.extract import HISTOGRAM, feature_file
from luss_ray.stages.run import Finished, Run
from luss_ray.stages.shards import decoded_mask, read_shard, run_over_shards
from luss_ray.storage.dataset import Split
from luss_ray.storage.uri import Location

SWEEP = "sweep.json"
_NUM_EXAMPLES = 24
_READ_THREADS = 16
_STEPS_PER_UNIT = 100


def example_rows(split: Split) -> list[int]:
    """Return the rows shown in the report: from all classes in turn where there are classes, else evenly spread over
    the first shard."""
    classes = [np.flatnonzero(split.class_ids == number) for number in np.unique(split.class_ids[split.class_ids > 0])]
    if not classes:
        first = split.shard_rows(0)
        return first[:: max(1, len(first) // _NUM_EXAMPLES)][:_NUM_EXAMPLES].tolist()
    turns = range(max(len(rows) for rows in classes))
    in_turn = [int(rows[turn]) for turn in turns for rows in classes if turn < len(rows)]
    return in_turn[:_NUM_EXAMPLES]


@dataclass(frozen=True, kw_only=True)
class AttendWork:
    """Counts label maps against masks for every threshold, and keeps the maps of the images to be shown."""

    split: Split
    recipe: Recipe
    weights: Location
    clusters: Clusters
    num_categories: int
    thresholds: tuple[float, ...]
    folder: Location

    def load(self, device: torch.device) -> Attender:
        """Return network and centroids."""
        return Attender.load(self.recipe, self.weights, self.clusters, device)

    def process(self, shard: int, network: Attender, device: torch.device) -> list[str]:
        """Publish the shard's counts, and the maps of its examples."""
        whole = read_shard(self.split, shard, self.recipe.shorter_side_px)
        truth = dict(zip(self.split.shard_rows(shard).tolist(), self._masks(shard), strict=True))
        shown = set(example_rows(self.split))
        curve, arrays = self.empty_curve(), {}
        for images, batch in whole.batches(device):
            maps = network.maps(batch, [(image.height, image.width) for image in images])
            for image, (clusters, attention) in zip(images, maps, strict=True):
                if (mask := truth[image.row]) is not None:
                    curve.update(clusters, attention, decoded_mask(self.split, image.row, mask))
                if image.row in shown:
                    arrays |= {f"clusters_{image.row}": clusters, f"attention_{image.row}": attention}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **curve.to_arrays(), **arrays)
        self.folder.create(counts_file(self.split, shard), buffer.getvalue())
        return whole.bad

    def empty_curve(self) -> ThresholdCurve:
        """Return the curve with nothing counted."""
        return ThresholdCurve(
            self.num_categories, num_clusters=self.clusters.num, thresholds=self.thresholds, boundary=False
        )

    def _masks(self, shard: int) -> list[bytes | None]:
        return self.split.read_masks(self.split.shard_rows(shard))


def counts_file(split: Split, shard: int) -> str:
    """Return the name of a shard's counts below the stage's folder."""
    return split.shards[shard].removesuffix(".tar") + ".npz"


def read_counts(folder: Location, split: Split, shard: int) -> dict[str, np.ndarray]:
    """Return a shard's counts and its examples' maps."""
    with np.load(io.BytesIO(folder.read(counts_file(split, shard))), allow_pickle=False) as arrays:
        return dict(arrays)


def find_threshold(run: Run, prefix: str, attention: Finished, features: Finished, clusters: Finished) -> Finished:
    """Return the stage that sweeps the threshold on validation masks, where there are any, and chooses one without."""
    split = run.data.split(run.shown_split)
    num_levels = round(run.recipe.threshold.max * _STEPS_PER_UNIT) + 1

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        attending = AttendWork(
            split=split,
            recipe=run.recipe,
            weights=attention.folder / "weights.safetensors",
            clusters=read_clusters(clusters),
            num_categories=len(run.data.categories) or run.num_clusters,
            thresholds=tuple(level / _STEPS_PER_UNIT for level in range(num_levels)),
            folder=folder,
        )
        every = range(len(split.shards))
        shards = list(every) if run.labelled else sorted({int(split.shard_ids[row]) for row in example_rows(split)})
        there = set(folder.list(split.name, suffix=".npz"))
        todo = [shard for shard in shards if counts_file(split, shard) not in there]
        run_over_shards(
            attending,
            todo,
            split.shard_sizes,
            f"{prefix}threshold",
            run.resources,
            max_bad_samples=run.limits.max_bad_samples,
        )
        files = FeatureFiles(features.folder, features.inputs)
        sweep = _label_free(files, run.data.split("train"), run.recipe.threshold.max)
        if run.labelled:
            curve = attending.empty_curve()
            for shard in shards:
                curve.add_arrays(read_counts(folder, split, shard))
            sweep |= _validation(curve.compute())
        choice = run.recipe.threshold.choice if run.labelled else ThresholdChoice.LABEL_FREE
        chosen = sweep["validation" if choice is ThresholdChoice.VALIDATION else "label_free"]
        folder.write_json(SWEEP, sweep | {"used": choice.value, "chosen": chosen})
        images = sum(len(split.shard_rows(shard)) for shard in shards)
        return {"images": images, "used": choice.value, "chosen": chosen}

    inputs = {"clusters": clusters.inputs, "labels": run.recipe.labels, "threshold": run.recipe.threshold}
    return run.stage(f"{prefix}threshold", inputs, work)


def _label_free(files: FeatureFiles, split: Split, most: float) -> dict[str, Any]:
    """Return the choice made from the attention over all training images (on the sweep's grid), and its histogram."""
    histogram, names = AttentionHistogram(), [feature_file(split, shard) for shard in range(len(split.shards))]
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        for index in pool.map(files.index, names):
            histogram.counts = histogram.counts + np.frombuffer(index.schema.metadata[HISTOGRAM], np.int64)
    chosen = round(otsu(histogram.counts, histogram.edges) * _STEPS_PER_UNIT) / _STEPS_PER_UNIT
    return {"label_free": min(chosen, most), "histogram": histogram.counts.tolist()}


def scores_at(sweep: dict[str, Any], threshold: float) -> dict[str, Any]:
    """Return the scores of the pseudo-labels on the validation split at one threshold of a sweep."""
    return sweep["scores"][round(threshold * _STEPS_PER_UNIT)]


def _validation(curve: Curve) -> dict[str, Any]:
    """Return the best threshold of the sweep, all scores, and those at the best one."""
    return {
        "validation": curve.best_threshold,
        "thresholds": curve.thresholds.tolist(),
        "scores": [scores.to_json() for scores in curve.scores],
        "matchings": curve.mappings.tolist(),
    }
