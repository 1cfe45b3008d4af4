"""What a guided filter makes of predictions, on finished runs: scores for several radii, and a picture.

`uv run benchmarks/outlines.py RUN … [--radii 0 0.75 1 1.25 1.5] [--figure FILE] [--json FILE]`

Radii are pixels of the network's output, 0 = outputs are only resized (published). Nothing is trained: logits of a
run's own network are turned into label maps in each way and scored on the validation split as the run was, each with a
matching of its own; images that can't be read are left out.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.table import Table

import luss_ray
from luss_ray.core.progress import CONSOLE, StageProgress
from luss_ray.export.segmenter import Segmenter, label_map
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.label_files import LabelledImage
from luss_ray.metrics.evaluation import Matching, Question, Tally
from luss_ray.nn.folding import for_inference
from luss_ray.report.colours import palette
from luss_ray.report.pictures import fit, label_picture
from luss_ray.stages.run import RUN
from luss_ray.stages.shards import Whole, read_shard
from luss_ray.storage.dataset import ShardedDataset, Split
from luss_ray.storage.uri import Location

SCORES = ("miou", "f", "mbiou")
NUM_SHOWN = 6
_SIDE_PX = 160


@dataclass(frozen=True)
class Case:
    """An image, its mask and its label map for each radius."""

    image: Whole
    mask: np.ndarray
    ids: list[np.ndarray]


def cases(model: Segmenter, split: Split, radii: list[float]) -> Iterator[Case]:
    """Yield the images of a split that have masks."""
    for shard in range(len(split.shards)):
        rows = split.shard_rows(shard)
        truth = dict(zip(rows.tolist(), split.read_masks(rows), strict=True))
        whole = read_shard(split, shard, model.config.shorter_side_px)
        for images, batch in whole.batches(torch.device("cpu"), normaliser=model.normalise):
            for image, pixels, logits in zip(images, batch, model(batch), strict=True):
                mask = truth[image.row]
                if mask is not None:
                    size = (image.height, image.width)
                    ids = [label_map(logits, pixels, size, radius) for radius in radii]
                    yield Case(image, masks.decode(mask), ids)


@torch.inference_mode()
def compare(run: Location, radii: list[float], figure: Path | None) -> dict[float, dict[str, float]]:
    """Return the scores of a run's predictions for each radius, and draw some of them."""
    model = for_inference(luss_ray.load(run.uri), torch.device("cpu"))
    data = ShardedDataset.open(Location.parse(run.read_json(RUN)["data_uri"]))
    split = data.split("validation")
    question = Question(
        num_categories=len(data.categories),
        num_clusters=len(model.names) - 1,
        matching=Matching.NONE if model.config.matching is None else Matching.IMAGES,
    )
    every = max(1, len(split) // NUM_SHOWN)
    tallies, shown = [question.tally() for _ in radii], []
    with StageProgress(run.uri, len(split), "images", images_per_unit=1) as progress:
        for done, case in enumerate(cases(model, split, radii), start=1):
            for tally, ids in zip(tallies, case.ids, strict=True):
                tally.add(LabelledImage(name=split.key(case.image.row), prediction=ids, mask=case.mask))
            if (done - 1) % every == 0 and len(shown) < NUM_SHOWN:
                shown.append(case)
            progress.update(done)
    if figure:
        draw(shown, tallies, radii).savefig(figure, dpi=110)
    scores = [tally.evaluation().scores.to_json() for tally in tallies]
    return {radius: {name: of[name] for name in SCORES} for radius, of in zip(radii, scores, strict=True)}


def draw(shown: list[Case], tallies: list[Tally], radii: list[float]) -> Figure:
    """Return a picture: a row an image, with its label map for each radius and its mask."""
    mappings = [tally.evaluation().mapping for tally in tallies]
    num_categories = tallies[0].question.num_categories
    colours = dict(enumerate(palette(num_categories), start=1))
    figure, axes = plt.subplots(
        len(shown),
        len(radii) + 2,
        figsize=(1.5 * (len(radii) + 2), 1.5 * len(shown)),
        layout="constrained",
        squeeze=False,
    )
    for row, case in zip(axes, shown, strict=True):
        ids = [mapping[map_] if mapping is not None else map_ for mapping, map_ in zip(mappings, case.ids, strict=True)]
        labels = [*ids, np.where(case.mask > num_categories, 0, case.mask)]
        photo = fit(case.image.resized, _SIDE_PX)
        pictures = [photo, *(label_picture(photo, label, colours, side_px=_SIDE_PX) for label in labels)]
        for place, picture in zip(row, pictures, strict=True):
            place.imshow(picture, interpolation="nearest")
            place.axis("off")
    titles = ["image", *(f"radius {radius:g}" if radius else "published" for radius in radii), "mask"]
    for place, title in zip(axes[0], titles, strict=True):
        place.set_title(title, fontsize=9)
    return figure


def main() -> None:
    """Compare, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--radii", nargs="+", type=float, default=[0, 0.75, 1, 1.25, 1.5])
    parser.add_argument("--figure", type=Path, help="a picture of the last run")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = {}
    table = Table("mIoU, F, boundary mIoU", *(f"{radius:g}" for radius in given.radii))
    for run in given.runs:
        found[run] = compare(Location.parse(run), given.radii, given.figure if run == given.runs[-1] else None)
        table.add_row(run, *("  ".join(f"{value:.1f}" for value in of.values()) for of in found[run].values()))
    CONSOLE.print(table)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
