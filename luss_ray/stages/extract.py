"""Step 2.2, features: one attention-weighted vector an image, a Parquet file a shard with its keys in its order."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from luss_ray.clustering.features import FeatureFiles, feature_table
from luss_ray.config.recipe import Labels, Recipe
from luss_ray.metrics.threshold import AttentionHistogram
from luss_ray.nn.folding import for_inference
from luss_ray.nn.models import PixelAttentionModel, describe
from luss_ray.stages.run import Finished, Run
from luss_ray.stages.shards import read_shard, run_over_shards
from luss_ray.storage.dataset import Split
from luss_ray.storage.uri import Location
from luss_ray.train.pixel_attention import pixel_attention_model
from luss_ray.train.step import half_precision

HISTOGRAM = b"attention_histogram"
_STRETCHED = (0.02, 0.98)
"""Quantiles of an image's attention that become 0 and 1."""


def feature_file(split: Split, shard: int) -> str:
    """Return the name of a shard's feature file below the stage's folder."""
    return split.shards[shard].removesuffix(".tar") + ".parquet"


def load_attention_model(recipe: Recipe, weights: Location, device: torch.device) -> PixelAttentionModel:
    """Return the network of step 2 with the weights that its training left, ready for inference."""
    model = pixel_attention_model(recipe)
    model.load_state_dict(safetensors.torch.load(weights.read()))
    return for_inference(model, device)


def attention_maps(attention: Float[Tensor, "B C H W"], settings: Labels) -> Float[Tensor, "B H W"]:
    """Return the attention of each pixel, 0 .. 1: the mean over channels, stretched image by image where that is asked.

    Args:
        attention: of `PixelAttentionModel.attend`.
        settings: of the recipe.
    """
    maps = attention.mean(dim=1)
    if not settings.attention_per_image:
        return maps
    low, high = maps.flatten(1).quantile(maps.new_tensor(_STRETCHED), dim=1)[:, :, None, None]
    return ((maps - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class ExtractWork:
    """Describes the images of a shard."""

    split: Split
    recipe: Recipe
    weights: Location
    folder: Location
    inputs: str
    """Digest of everything the features follow from."""

    def load(self, device: torch.device) -> PixelAttentionModel:
        """Return the network of step 2."""
        return load_attention_model(self.recipe, self.weights, device)

    def process(self, shard: int, network: PixelAttentionModel, device: torch.device) -> list[str]:
        """Publish columns `key`, `valid`, `feature` (C float32, zeros where the image is bad), and the histogram of
        the attention as the file's metadata."""
        whole = read_shard(self.split, shard, self.recipe.shorter_side_px)
        rows = self.split.shard_rows(shard)
        features = np.zeros((len(rows), network.channels[-1]), np.float32)
        valid = np.zeros(len(rows), bool)
        histogram = AttentionHistogram()
        # bfloat16 moves no image to another cluster (benchmarks/RESULTS.md); float16 was not measured.
        half = self.recipe.mixed_precision and half_precision(device) is torch.bfloat16
        for images, batch in whole.batches(device, self.recipe.clustering.crop_px):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                pixels, attention = network.attend(batch)
            places = [image.row - int(rows[0]) for image in images]
            features[places] = describe(pixels, attention).cpu().numpy()
            valid[places] = True
            histogram.update(attention_maps(attention, self.recipe.labels).cpu().numpy())
        table = feature_table(
            [self.split.key(row) for row in rows],
            features,
            valid,
            inputs=self.inputs,
            metadata={HISTOGRAM: histogram.counts.tobytes()},
        )
        self.folder.create_table(feature_file(self.split, shard), table)
        return whole.bad


def _not_valid(files: FeatureFiles, split: Split, shards: list[int]) -> list[str]:
    """Return shard URI#key of each sample of some shards that could not be described."""
    return [
        split.sample_uri(row)
        for shard in shards
        for row, valid in zip(
            split.shard_rows(shard).tolist(), files.index(feature_file(split, shard))["valid"].to_pylist(), strict=True
        )
        if not valid
    ]


def extract(run: Run, prefix: str, attention: Finished) -> Finished:
    """Return the stage that describes every training image."""
    split = run.data.split("train")

    def work(folder: Location, inputs: str) -> dict[str, Any]:
        there = set(folder.list("train", suffix=".parquet"))
        published = [n for n in range(len(split.shards)) if feature_file(split, n) in there]
        todo = sorted(set(range(len(split.shards))) - set(published))
        extraction = ExtractWork(
            split=split,
            recipe=run.recipe,
            weights=attention.folder / "weights.safetensors",
            folder=folder,
            inputs=inputs,
        )
        bad = run_over_shards(
            extraction,
            todo,
            split.shard_sizes,
            f"{prefix}features",
            run.resources,
            max_bad_samples=run.limits.max_bad_samples,
            known_bad=_not_valid(FeatureFiles(folder, inputs), split, published),
        )
        return {"images": len(split), "quarantined": bad}

    follows_from = {
        "attention": attention.inputs,
        "shorter_side_px": run.recipe.shorter_side_px,
        "crop_px": run.recipe.clustering.crop_px,
        "attention_per_image": run.recipe.labels.attention_per_image,
    }
    return run.stage(f"{prefix}features", follows_from, work)
