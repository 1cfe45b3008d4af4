"""What the demo learns, over seeds: mIoU beside the baselines, clusters beside those of plain colours.

`uv run benchmarks/demo.py [--seeds 3] [--quick] [--json FILE] [--storage URI] [-- options of jobs/pass.py]`

A ratio of 1.3 in `miou_vs_random_backbone` is what the demo is asked for; `colours_vs_features`, the accuracy of
k-means on colour histograms over that of k-means on the trained features, must stay below 0.6: else colours would do.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
from rich.table import Table

from luss_ray.clustering.kmeans import normalise_rows
from luss_ray.clustering.nearest import nearest_centroids
from luss_ray.core.progress import CONSOLE
from luss_ray.data.decode import decode_image
from luss_ray.metrics.neighbours import clustering_accuracy
from luss_ray.storage.dataset import ShardedDataset, Split
from luss_ray.storage.uri import Location

JOB = Path(__file__).parents[1] / "jobs" / "pass.py"
FIRST_SEED = 10010
LEVELS = 4
QUICK = ["--pretrain.optimisation.epochs", "3"]


def colour_accuracy(split: Split, num_clusters: int) -> float:
    """Return the accuracy (percent) of k-means on the images' colour histograms, 4 levels a channel, square-rooted."""
    histograms = np.zeros((len(split), LEVELS**3), np.float32)
    for row, data in enumerate(split.read_images(range(len(split)))):
        red, green, blue = (decode_image(data).reshape(-1, 3).T // (256 // LEVELS)).astype(np.int64)
        histograms[row] = np.bincount((red * LEVELS + green) * LEVELS + blue, minlength=LEVELS**3)
    rows = normalise_rows(np.sqrt(histograms))
    kmeans = faiss.Kmeans(rows.shape[1], num_clusters, niter=30, nredo=10, seed=1, max_points_per_centroid=len(rows))
    kmeans.train(rows)
    return clustering_accuracy(nearest_centroids(rows, np.asarray(kmeans.centroids)[None]).clusters[0], split.class_ids)


def one_seed(seed: int, storage: str, options: list[str]) -> dict[str, float]:
    """Run the demo and return its figures, in percent; the time is that of its stages, in seconds."""
    name = f"demo-seed-{seed}"
    command = [sys.executable, str(JOB), "demo", "--seed", str(seed), "--name", name, "--storage", storage, *options]
    subprocess.run(command, check=True)
    result = (Location.parse(storage) / name / "result.json").read_json()
    metrics, stages = result["metrics"], result["stages"]
    data = ShardedDataset.open(Location.parse(result["data"]["uri"]))
    return {
        "fine-tuned": metrics["finetuned"]["miou"],
        "pseudo-labels": metrics["pseudo_labels"]["miou"],
        **{name.replace("_", " "): scores["miou"] for name, scores in metrics["baselines"].items()},
        "k-means, features": stages["clusters"]["image_accuracy"],
        "k-means, random backbone": stages["random-backbone/clusters"]["image_accuracy"],
        "k-means, colours": colour_accuracy(data.split("train"), len(data.categories)),
        "seconds": sum(stage["seconds"] for stage in stages.values()),
    }


def ratios(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the ratios over seeds."""
    pairs = {
        "miou_vs_random_backbone": ("fine-tuned", "random backbone"),
        "miou_vs_whole_image": ("fine-tuned", "whole image"),
        "colours_vs_features": ("k-means, colours", "k-means, features"),
    }
    values = {name: [row[over] / row[under] for row in rows] for name, (over, under) in pairs.items()}
    return {name: {"median": statistics.median(v), "min": min(v), "max": max(v)} for name, v in values.items()}


def main() -> None:
    """Run the demo for every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, three epochs: a check of the program")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--storage", default="runs")
    parser.add_argument("options", nargs="*", help="further options of jobs/pass.py, after --")
    given = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + (1 if given.quick else given.seeds))
    rows = [one_seed(seed, given.storage, (QUICK if given.quick else []) + given.options) for seed in seeds]
    table = Table("", *map(str, seeds), "mean", "std")
    for name in rows[0]:
        values = [row[name] for row in rows]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        table.add_row(name, *(f"{value:.1f}" for value in [*values, statistics.mean(values), spread]))
    CONSOLE.print(table)
    found = ratios(rows)
    for name, spread in found.items():
        CONSOLE.print(f"{name}: {spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})")
    if given.json:
        given.json.write_text(json.dumps({"ratios": found, "seeds": dict(zip(seeds, rows, strict=True))}, indent=1))


if __name__ == "__main__":
    main()
