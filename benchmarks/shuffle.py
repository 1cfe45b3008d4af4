"""Shuffle quality beside WebDataset's buffer and Ray Data's local shuffle, on shards that are ordered by class.

`uv run benchmarks/shuffle.py [--quick] [--json FILE]`

The number is `clumping` (luss_ray/data/shuffle_quality.py) over windows of 256 samples: 1 = independent draws. Every
contender reads the same tars, 100 classes one after the other, in the order in which it would train; shards themselves
are shuffled by all of them. Ratios: a peer's clumping over ours.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import ray
import webdataset as wds
from rich.table import Table

from luss_ray.core.progress import CONSOLE
from luss_ray.data.plan import Plan
from luss_ray.data.shuffle_quality import clumping

NUM_CLASSES, PER_SHARD, BUFFER = 100, 200, 1000


def write_shards(folder: Path, per_class: int) -> list[str]:
    """Write the tars; return their paths."""
    labels = np.repeat(np.arange(NUM_CLASSES), per_class)
    urls = []
    for number, start in enumerate(range(0, len(labels), PER_SHARD)):
        urls.append(str(folder / f"{number:05d}.tar"))
        with wds.TarWriter(urls[-1], encoder=False) as out:
            for place, label in enumerate(labels[start : start + PER_SHARD], start):
                out.write({"__key__": f"{place:08d}", "cls": str(label).encode()})
    return urls


def ours(urls: list[str], per_class: int, seed: int) -> np.ndarray:
    """Return the classes in the plan's order."""
    labels = np.repeat(np.arange(NUM_CLASSES), per_class)
    plan = Plan(np.arange(len(labels)) // PER_SHARD, seed=seed, global_batch=256, epochs=1)
    assert len(np.unique(plan.shard_ids)) == len(urls)
    return labels[plan.order(0)]


def webdataset(urls: list[str], seed: int) -> np.ndarray:
    """Return the classes in WebDataset's order: shards shuffled, then a buffer."""
    data = wds.WebDataset(urls, shardshuffle=len(urls), seed=seed).shuffle(BUFFER, seed=seed).to_tuple("cls")
    return np.array([int(label) for (label,) in data])


def ray_data(urls: list[str], seed: int) -> np.ndarray:
    """Return the classes in Ray Data's order: files shuffled, then a local shuffle in the iterator."""
    rows = ray.data.read_webdataset(urls, suffixes=["cls"], decoder=None, shuffle=ray.data.FileShuffleConfig(seed))
    batches = rows.iter_batches(batch_size=256, local_shuffle_buffer_size=BUFFER, local_shuffle_seed=seed)
    return np.array([int(label) for batch in batches for label in batch["cls"]])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 100 images a class")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    per_class, seeds = (100, range(1)) if given.quick else (400, range(3))
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=1 << 28)
    ray.data.DataContext.get_current().enable_progress_bars = False
    measured: dict[str, list[float]] = {"ours": [], "webdataset": [], "ray_data": []}
    with tempfile.TemporaryDirectory() as folder:
        urls = write_shards(Path(folder), per_class)
        for seed in seeds:
            measured["ours"].append(clumping(ours(urls, per_class, seed)))
            measured["webdataset"].append(clumping(webdataset(urls, seed)))
            measured["ray_data"].append(clumping(ray_data(urls, seed)))
    table = Table("clumping", "median", "min", "max")
    for name, values in measured.items():
        table.add_row(name, *(f"{value:.2f}" for value in (statistics.median(values), min(values), max(values))))
    CONSOLE.print(table)
    ratios = {
        f"{peer}_vs_ours": [a / b for a, b in zip(measured[peer], measured["ours"], strict=True)]
        for peer in ("webdataset", "ray_data")
    }
    if given.json:
        spread = {name: {"median": statistics.median(v), "min": min(v), "max": max(v)} for name, v in ratios.items()}
        given.json.write_text(json.dumps({"ratios": spread, "measured": measured}, indent=1))


if __name__ == "__main__":
    main()
