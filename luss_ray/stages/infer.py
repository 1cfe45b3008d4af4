"""Step 4: predictions of the fine-tuned network for every image of a split, as label shards."""

from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch

from luss_ray.config.recipe import Recipe
from luss_ray.export.segmenter import label_map
from luss_ray.imagenet_s import masks
from luss_ray.nn.folding import for_inference
from luss_ray.nn.models import SegmentationModel
from luss_ray.stages.run import Finished, Run
from luss_ray.stages.shards import read_shard, run_over_shards
from luss_ray.storage.dataset import Split
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.uri import Location
from luss_ray.train.finetune import segmentation_model


@dataclass(frozen=True, kw_only=True)
class InferWork:
    """Predicts the images of a shard."""

    split: Split
    recipe: Recipe
    weights: Location
    num_clusters: int
    predictions: LabelShards

    def load(self, device: torch.device) -> SegmentationModel:
        """Return the fine-tuned network."""
        model = segmentation_model(self.recipe, self.num_clusters)
        model.load_state_dict(safetensors.torch.load(self.weights.read()))
        return for_inference(model, device)

    def process(self, shard: int, network: SegmentationModel, device: torch.device) -> list[str]:
        """Publish the shard's predictions."""
        whole = read_shard(self.split, shard, self.recipe.shorter_side_px)
        encoded: dict[int, bytes] = {}
        for images, batch in whole.batches(device):
            for image, pixels, logits in zip(images, batch, network(batch), strict=True):
                ids = label_map(logits, pixels, (image.height, image.width), self.recipe.prediction.guided_radius)
                encoded[image.row] = masks.encode(ids)
        self.predictions.publish(shard, [encoded.get(row) for row in self.split.shard_rows(shard).tolist()])
        return whole.bad


def infer(
    run: Run, prefix: str, finetuned: Finished, *, split_name: str | None = None, num_outputs: int | None = None
) -> Finished:
    """Return the stage that predicts every image of a split, the shown one unless another is named.

    Args:
        run: whose images.
        prefix: of the stage's name.
        finetuned: the network.
        split_name: the split.
        num_outputs: ids that it tells apart beside 0; by default the clusters.
    """
    name = f"{prefix}predictions" + (f"-{split_name}" if split_name else "")
    split = run.data.split(split_name or run.shown_split)

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        predictions = LabelShards(folder, split)
        inference = InferWork(
            split=split,
            recipe=run.recipe,
            weights=finetuned.folder / "weights.safetensors",
            num_clusters=num_outputs or run.num_clusters,
            predictions=predictions,
        )
        published = predictions.published()
        todo = sorted(set(range(len(split.shards))) - set(published))
        bad = run_over_shards(
            inference,
            todo,
            split.shard_sizes,
            name,
            run.resources,
            max_bad_samples=run.limits.max_bad_samples,
            known_bad=predictions.unlabelled(published),
        )
        return {"images": len(split), "quarantined": bad}

    inputs = {"finetuned": finetuned.inputs, "split": split.name}
    return run.stage(name, inputs | run.recipe.prediction.departures(), work)
