"""Step 2.4: label shards for every training image, parallel to the image shards; their threshold stays open."""

from dataclasses import dataclass
from typing import Any

import torch

from luss_ray.clustering.assign import Clusters
from luss_ray.config.recipe import Recipe
from luss_ray.stages.attend import Attender
from luss_ray.stages.cluster import read_clusters
from luss_ray.stages.coverage import THRESHOLDS, count_labels
from luss_ray.stages.run import Finished, Run
from luss_ray.stages.shards import read_shard, run_over_shards
from luss_ray.storage.dataset import Split
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.uri import Location


@dataclass(frozen=True, kw_only=True)
class PseudoLabelWork:
    """Finds cluster and attention of the pixels of a shard's images."""

    split: Split
    recipe: Recipe
    weights: Location
    clusters: Clusters
    labels: LabelShards

    def load(self, device: torch.device) -> Attender:
        """Return network and centroids."""
        return Attender.load(self.recipe, self.weights, self.clusters, device)

    def process(self, shard: int, network: Attender, device: torch.device) -> list[str]:
        """Publish the shard's soft labels."""
        whole = read_shard(self.split, shard, self.recipe.shorter_side_px)
        encoded: dict[int, bytes] = {}
        for images, batch in whole.batches(device):
            for image, label in zip(images, network.soft_labels(batch), strict=True):
                encoded[image.row] = label.encode()
        self.labels.publish(shard, [encoded.get(row) for row in self.split.shard_rows(shard).tolist()])
        return whole.bad


def pseudo_label(run: Run, prefix: str, attention: Finished, clusters: Finished) -> Finished:
    """Return the stage that labels every training image: a `SoftLabel` each, and their counts."""
    split = run.data.split("train")

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        labels = LabelShards(folder, split)
        labelling = PseudoLabelWork(
            split=split,
            recipe=run.recipe,
            weights=attention.folder / "weights.safetensors",
            clusters=read_clusters(clusters),
            labels=labels,
        )
        published = labels.published()
        todo = sorted(set(range(len(split.shards))) - set(published))
        run_over_shards(
            labelling,
            todo,
            split.shard_sizes,
            f"{prefix}pseudo-labels",
            run.resources,
            max_bad_samples=run.limits.max_bad_samples,
            known_bad=labels.unlabelled(published),
        )
        census = count_labels(labels, run.num_clusters)
        return {
            "images": len(split),
            "quarantined": census.unlabelled,
            "clusters": run.num_clusters,
            "bytes_per_image": round(census.num_bytes / len(split), 1),
            "coverage": census.counts.coverage(THRESHOLDS).round(3).tolist(),
        }

    inputs = {"attention": attention.inputs, "clusters": clusters.inputs, "labels": run.recipe.labels}
    return run.stage(f"{prefix}pseudo-labels", inputs, work)
