"""Features and pseudo-labels: what a worker does with a shard, beside the bare network and beside one image at a time.

`uv run benchmarks/features.py [--images 192] [--rounds 5] [--quick] [--json FILE]`

All sides run in this process on the same cores (and the GPU, where there is one), in turn in each round, over the same
images: JPEGs whose shorter side is 256 px, half of them 4:3 or 3:4, the others of widths as they come. Each has a pass
that isn't counted.

- `stage`: the stage's own work: read a shard, decode, batch by size, the network, encode, publish
- `one_at_a_time`: the same for one image after the other
- `bare_forward`: features and attention of the stage's batches, which lie ready on the device; results are dropped.
  The network is as it was trained, in the memory order that convolutions want
- `folded_forward`: the same with the stage's network, whose batch norms went into its convolutions
- `published_forward`: the same as plain layers of torch in the published order, features upsampled first, in torch's
  own memory order

All compute in float32. Networks are those of the recipes, ResNet-18 with 50 clusters and ResNet-50 with 919.
`…_vs_one_at_a_time`, `…_of_bare_forward`, `…_of_folded_forward` and `…_of_published_forward` are ratios of the stage's
rate to the others. `bytes_per_image` are those of the label shards, indices included, of maps that are harder than real
ones: a random network's, with tens of clusters an image, and with attention stretched to its whole range.
"""

import argparse
import copy
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from luss_ray.clustering.assign import Clusters
from luss_ray.config.recipe import Recipe
from luss_ray.config.recipes import RECIPES
from luss_ray.core.progress import CONSOLE
from luss_ray.data.crops import resize_shorter
from luss_ray.data.decode import decode_image
from luss_ray.imagenet_s.layout import find_images
from luss_ray.nn.backbone import Maps, on_device
from luss_ray.nn.heads import upsample
from luss_ray.nn.models import PixelAttentionModel, describe
from luss_ray.stages.attend import Attender
from luss_ray.stages.extract import ExtractWork
from luss_ray.stages.pseudo_label import PseudoLabelWork
from luss_ray.stages.shards import ShardImages, Whole, read_shard
from luss_ray.storage.dataset import ShardedDataset, Split
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.pack import pack
from luss_ray.storage.pack_plan import PackSettings
from luss_ray.storage.uri import Location
from luss_ray.train.pixel_attention import pixel_attention_model

RECIPE_OF = {"resnet18": "imagenet-s-50", "resnet50": "imagenet-s-919"}
NUM_CLUSTERS = {"resnet18": 50, "resnet50": 919}
SIDE_PX = 256
COMMON = ((256, 341), (341, 256))
SIDES = ("stage", "one_at_a_time", "bare_forward", "folded_forward", "published_forward")


def make_images(folder: Path, number: int) -> None:
    """Write JPEGs of smooth shapes with texture; half have one of the common sizes."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for place in range(number):
        longer = int(rng.integers(SIDE_PX, 420))
        size = COMMON[place // 2 % 2] if place % 2 else (SIDE_PX, longer) if rng.random() < 0.5 else (longer, SIDE_PX)
        coarse = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
        texture = cv2.GaussianBlur(rng.normal(0, 60, (*size, 3)).astype(np.float32), (0, 0), 1.0)
        pixels = np.clip(coarse + texture, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{place:06d}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One network over the images."""

    split: Split
    recipe: Recipe
    weights: Location
    device: torch.device
    network: PixelAttentionModel
    """As the stages load it."""
    trained: PixelAttentionModel
    """As it was trained."""
    plain: PixelAttentionModel
    """The same in torch's own memory order."""
    clusters: Clusters

    @classmethod
    def prepare(cls, backbone: str, split: Split, folder: Path) -> "Bench":
        """Return it with random weights, and means of some images' vectors as centroids."""
        recipe = replace(RECIPES[RECIPE_OF[backbone]](), mixed_precision=False)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        weights = Location.parse(folder / f"{backbone}.safetensors")
        weights.write("", safetensors.torch.save(dict(pixel_attention_model(recipe).state_dict())))
        empty = ExtractWork(split=split, recipe=recipe, weights=weights, folder=weights, inputs="")
        network = empty.load(device)
        batches = itertools.islice(read_shard(split, 0, SIDE_PX).batches(device), 16)
        vectors = torch.cat([describe(*network.attend(batch)) for _, batch in batches]).cpu().numpy()
        mixture = np.random.default_rng(0).dirichlet(np.full(len(vectors), 0.1), NUM_CLUSTERS[backbone])
        clusters = Clusters.of((mixture @ vectors).astype(np.float32))
        trained = on_device(pixel_attention_model(recipe).eval(), device)
        trained.load_state_dict(safetensors.torch.load(weights.read()))
        plain = copy.deepcopy(trained).to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        return cls(
            split=split,
            recipe=recipe,
            weights=weights,
            device=device,
            network=network,
            trained=trained,
            plain=plain,
            clusters=clusters,
        )

    def labelling(self, folder: Path) -> PseudoLabelWork:
        """Return the work of the stage of pseudo-labels, into a folder."""
        labels = LabelShards(Location.parse(folder), self.split)
        return PseudoLabelWork(
            split=self.split, recipe=self.recipe, weights=self.weights, clusters=self.clusters, labels=labels
        )

    def attender(self) -> Attender:
        """Return network and clusters."""
        directions = F.normalize(torch.from_numpy(self.clusters.centroids), dim=1)
        numbers = torch.from_numpy(self.clusters.clusters + 1)
        return Attender(self.network, directions.to(self.device), numbers.to(self.device))

    def label_shards(self, folder: Path) -> None:
        """Label as the stage does."""
        work, attender = self.labelling(folder), self.attender()
        for shard in range(len(self.split.shards)):
            assert not work.process(shard, attender, self.device)

    def label_one_by_one(self, folder: Path) -> None:
        """Label an image at a time; shards are published as by the stage."""
        work, attender = self.labelling(folder), self.attender()
        for shard in range(len(self.split.shards)):
            encoded = [attender.soft_labels(self.alone(row))[0].encode() for row in self.split.shard_rows(shard)]
            assert work.labels.publish(shard, encoded)

    def extract_shards(self, folder: Path) -> None:
        """Describe as the stage does."""
        place = Location.parse(folder)
        work = ExtractWork(split=self.split, recipe=self.recipe, weights=self.weights, folder=place, inputs="")
        for shard in range(len(self.split.shards)):
            assert not work.process(shard, self.network, self.device)

    def extract_one_by_one(self, folder: Path) -> None:
        """Describe an image at a time; nothing is published."""
        for row in range(len(self.split)):
            pixels, attention = self.network.attend(self.alone(row, self.recipe.clustering.crop_px))
            assert len(describe(pixels, attention).cpu().numpy()) == 1 and attention.mean(dim=1).cpu().numpy().size

    def alone(self, row: int, crop_px: int | None = None) -> Tensor:
        """Return one image as a batch."""
        image = resize_shorter(decode_image(self.split.read_images([row])[0]), SIDE_PX)
        ((_, batch),) = ShardImages([Whole(row, image, *image.shape[:2])], []).batches(self.device, crop_px)
        return batch

    def batches(self, crop_px: int | None) -> list[Tensor]:
        """Return the stage's batches, on the device."""
        made = []
        for shard in range(len(self.split.shards)):
            made += [batch for _, batch in read_shard(self.split, shard, SIDE_PX).batches(self.device, crop_px)]
        return made

    def forward(self, network: PixelAttentionModel, batches: list[Tensor]) -> None:
        """Run a network alone."""
        for batch in batches:
            network.attend(batch)

    def published_forward(self, batches: list[Tensor]) -> None:
        """Run it in the order of the published code."""
        attention = self.plain.fbg
        assert attention is not None
        for batch in batches:
            features = upsample(self.plain.stages(batch)[3])
            torch.sigmoid(attention.atten(F.normalize(features, dim=1)) + attention.threshold)

    def seconds(self, work: Callable[[Path], None]) -> float:
        """Return how long work takes that writes into an empty folder."""
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            started = time.perf_counter()
            work(Path(folder))
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - started

    def bytes_per_image(self) -> float:
        """Return what the label shards take of attention that fills its range."""
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            work = self.labelling(Path(folder))
            attender = replace(self.attender(), network=Stretched(self.network))
            for shard in range(len(self.split.shards)):
                work.process(shard, attender, self.device)
            return sum(map(work.labels.size_bytes, work.labels.published())) / len(self.split)


class Stretched(torch.nn.Module):
    """A network whose attention maps reach from 0 to 1 in each image."""

    def __init__(self, network: PixelAttentionModel) -> None:
        super().__init__()
        self.network = network

    def stages(self, images: Tensor) -> Maps:
        """Return the backbone's maps as they are."""
        return self.network.stages(images)

    def attend_to(self, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Return features as they are, and one channel of attention."""
        features, attention = self.network.attend_to(coarse)
        means = attention.mean(dim=1, keepdim=True)
        low, high = means.amin(dim=(2, 3), keepdim=True), means.amax(dim=(2, 3), keepdim=True)
        return features, (means - low) / (high - low)


def measure(bench: Bench, name: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return images/s by stage and side, a value a round."""
    crop_px = bench.recipe.clustering.crop_px
    ready = {"pseudo_labels": bench.batches(None), "features": bench.batches(crop_px)}
    sides: dict[str, dict[str, Callable[[Path], None]]] = {
        "pseudo_labels": {"stage": bench.label_shards, "one_at_a_time": bench.label_one_by_one},
        "features": {"stage": bench.extract_shards, "one_at_a_time": bench.extract_one_by_one},
    }
    rates: dict[str, dict[str, list[float]]] = {stage: {side: [] for side in SIDES} for stage in sides}
    for stage, batches in ready.items():
        plain = [batch.contiguous() for batch in batches]
        sides[stage]["published_forward"] = lambda _, batches=plain: bench.published_forward(batches)
        sides[stage]["bare_forward"] = lambda _, batches=batches: bench.forward(bench.trained, batches)
        sides[stage]["folded_forward"] = lambda _, batches=batches: bench.forward(bench.network, batches)
    for stage, side in itertools.product(sides, SIDES):
        bench.seconds(sides[stage][side])  # the first calls choose algorithms, and take their memory from the system
    for number, stage in itertools.product(range(rounds), sides):
        for side in SIDES:
            rates[stage][side].append(len(bench.split) / bench.seconds(sides[stage][side]))
        values = ", ".join(f"{side} {rates[stage][side][-1]:.1f}" for side in SIDES)
        CONSOLE.print(f"round {number + 1}, {name}, {stage}: {values} images/s")
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of 48 images")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    num_images, rounds = (48, 1) if given.quick else (given.images, given.rounds)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    measured, num_bytes = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "files", num_images)
        data = Location.parse(folder / "shards")
        pack(find_images(folder / "files"), data, PackSettings(images_per_shard=max(24, num_images // 4)))
        split = ShardedDataset.open(data).split("train")
        for backbone in RECIPE_OF:
            with torch.inference_mode():
                bench = Bench.prepare(backbone, split, folder)
            measured[backbone] = measure(bench, backbone, rounds)
            num_bytes[backbone] = bench.bytes_per_image()
    ratios = {
        f"{stage}_{word}_{side}_{backbone}": [a / b for a, b in zip(rates["stage"], rates[side], strict=True)]
        for backbone, stages in measured.items()
        for stage, rates in stages.items()
        for word, side in (("vs", "one_at_a_time"), *(("of", side) for side in SIDES[2:]))
    }
    spread = {name: {"median": statistics.median(v), "min": min(v), "max": max(v)} for name, v in ratios.items()}
    table = Table("", "median", "min", "max")
    for name, values in spread.items():
        table.add_row(name, *(f"{value:.2f}" for value in values.values()))
    CONSOLE.print(table)
    for backbone, value in num_bytes.items():
        CONSOLE.print(f"label shards, {NUM_CLUSTERS[backbone]} clusters: {value:.0f} bytes an image")
    if given.json:
        found = {"ratios": spread, "bytes_per_image": num_bytes, "measured": measured}
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
