"""Evaluation beside the published algorithm: one evaluation, the threshold curve, the matching, memory.

`uv run benchmarks/evaluate.py [--images 200] [--quick] [--json FILE]`

The peer is the published algorithm written down plainly: PNGs read as arrays, an erosion a class for the boundaries, a
histogram a size bucket and kind, one pass over the images for every threshold. Both sides read the same files of
500 x 375 px, in one thread: masks as Pillow writes them, predictions as this package does. `vs_authors` and
`curve_vs_authors` say how many times less time an image takes us, `curve_cost` what 81 thresholds cost in
evaluations, `decode_share` which part of an evaluation is reading PNGs: its floor. `matching_919_s` is in seconds.
"""

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rich.table import Table

from luss_ray.core.findings import Findings
from luss_ray.core.progress import CONSOLE
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.label_files import LabelFiles, LabelledImage
from luss_ray.metrics.curve import PUBLISHED_THRESHOLDS
from luss_ray.metrics.evaluation import Matching, Question
from luss_ray.metrics.matching import hungarian

HEIGHT, WIDTH, CATEGORIES = 375, 500, 50
NUM_THRESHOLDS = len(PUBLISHED_THRESHOLDS)


def make_images(folder: Path, number: int) -> LabelFiles:
    """Write `number` masks, predictions and attention maps that look like a photograph's: a few blobs each."""
    rng = np.random.default_rng(0)
    names = [f"n{i % CATEGORIES:08d}/{i:05d}.png" for i in range(number)]
    for name in names:
        mask, attention = np.zeros((HEIGHT, WIDTH), np.uint16), rng.random((12, 16)).astype(np.float32)
        for category in rng.integers(1, CATEGORIES + 1, 3):
            centre = (int(rng.integers(0, WIDTH)), int(rng.integers(0, HEIGHT)))
            axes = (int(rng.integers(20, 160)), int(rng.integers(20, 120)))
            cv2.ellipse(mask, centre, axes, int(rng.integers(0, 180)), 0, 360, int(category), -1)
        mask[:4] = masks.IGNORE
        prediction = np.roll(np.where(mask == masks.IGNORE, 0, mask), 9, axis=1)
        for part, data in (("masks", pillow_png(mask)), ("predictions", masks.encode(prediction))):
            path = folder / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        path = folder / "attention" / Path(name).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, cv2.resize(attention, (WIDTH, HEIGHT)).clip(0, 1))
    parts = {part: folder / part for part in ("predictions", "masks", "attention")}
    return LabelFiles(names=names, **parts)


def pillow_png(ids: np.ndarray) -> bytes:
    """Return a mask as the benchmark's archives hold them."""
    out = io.BytesIO()
    Image.fromarray(np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], axis=-1).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def plain_ids(path: Path) -> np.ndarray:
    """Return the ids in a PNG, R + 256 G."""
    pixels = np.array(Image.open(path)).astype(np.int64)
    return pixels[..., 1] * 256 + pixels[..., 0]


def plain_boundary(ids: np.ndarray) -> np.ndarray:
    """Return ids + 1 on the boundaries, 0 elsewhere: one erosion a class."""
    distance = max(1, round(0.03 * float(np.hypot(*ids.shape))))
    out = np.zeros(ids.shape, np.int64)
    kernel = np.ones((3, 3), np.uint8)
    for category in np.unique(ids):
        region = (ids == category).astype(np.uint8)
        padded = cv2.copyMakeBorder(region, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        inner = cv2.erode(padded, kernel, iterations=distance)[1:-1, 1:-1]
        out[(region == 1) & (inner == 0)] = category + 1
    return out


def histogram(values: np.ndarray, low: int, high: int) -> torch.Tensor:
    """Return how often each of `low` .. `high` occurs."""
    return torch.histc(torch.from_numpy(values.astype(np.float32)), bins=high - low + 1, min=low, max=high)


def plain_areas(prediction: np.ndarray, truth: np.ndarray, low: int, high: int) -> list[torch.Tensor]:
    """Return predicted, true and shared areas by histograms."""
    both = prediction[prediction == truth]
    return [histogram(values, low, high) for values in (prediction, truth, both)]


def plain_evaluation(prediction: np.ndarray, truth: np.ndarray, totals: dict[str, torch.Tensor]) -> None:
    """Add an image's counts the plain way."""
    edges = plain_boundary(prediction), plain_boundary(truth)
    kept = truth != masks.IGNORE
    prediction, truth = prediction[kept], truth[kept]
    edges = edges[0][kept], edges[1][kept]
    counts = plain_areas(prediction, truth, 0, CATEGORIES) + plain_areas(*edges, 1, CATEGORIES + 1)
    sizes = {c: np.ceil(100 * (truth == c).sum() / len(truth)) for c in np.unique(truth) if c}
    for low, high in ((0, 5), (5, 25), (25, 50), (50, 100)):
        chosen = [c for c, size in sizes.items() if low < size <= high]
        if chosen:
            part = np.isin(truth, [0, *chosen])
            counts += plain_areas(prediction[part], truth[part], 0, CATEGORIES)
            counts += plain_areas(edges[0][part], edges[1][part], 1, CATEGORIES + 1)
        else:
            counts += [torch.zeros(CATEGORIES + 1)] * 6
    found, real = prediction > 0, truth > 0
    shared = (found & real).sum()
    precision, recall = shared / max(found.sum(), 1), shared / max(real.sum(), 1)
    f = 1.3 * precision * recall / max(0.3 * precision + recall, 1e-10)
    totals["areas"] = totals.get("areas", 0) + torch.stack(counts)
    totals["f"] = totals.get("f", 0) + torch.tensor(float(f))


def plain_pass(files: LabelFiles, threshold: float | None = None) -> float:
    """Return the seconds an image takes the plain way."""
    totals: dict[str, torch.Tensor] = {}
    started = time.perf_counter()
    for name in files.names:
        prediction = plain_ids(files.predictions / name)
        if threshold is not None:
            assert files.attention is not None
            attention = np.load((files.attention / name).with_suffix(".npy"))
            prediction[attention < np.float32(threshold)] = 0
        plain_evaluation(prediction, plain_ids(files.masks / name), totals)
    return (time.perf_counter() - started) / len(files.names)


def our_pass(files: LabelFiles, question: Question) -> float:
    """Return the seconds an image takes us."""
    started = time.perf_counter()
    tally = question.tally()
    for name in files.names:
        tally.add(files.read(name, tally.findings))
    tally.evaluation()
    return (time.perf_counter() - started) / len(files.names)


def decode_pass(files: LabelFiles) -> float:
    """Return the seconds in which an image's two PNGs are read."""
    started = time.perf_counter()
    for name in files.names:
        files.read(name, Findings())
    return (time.perf_counter() - started) / len(files.names)


def matching_seconds() -> float:
    """Return the seconds of a matching at 919 categories and 12,419 images."""
    rng = np.random.default_rng(1)
    counts = np.zeros((919, 919), np.int64)
    np.add.at(counts, (rng.integers(0, 919, 60_000), rng.integers(0, 919, 60_000)), 1)
    started = time.perf_counter()
    hungarian(counts)
    return time.perf_counter() - started


def peak_mib(number: int) -> float:
    """Return the peak memory of a process that scores the curve over so many images."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak-of", str(number)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def print_peak(number: int) -> None:
    """Score one image `number` times for the curve and print this process's peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        files = make_images(Path(folder), 8)
        images: list[LabelledImage] = [files.read(name, Findings()) for name in files.names]
    question = Question(num_categories=CATEGORIES, num_clusters=CATEGORIES, thresholds=PUBLISHED_THRESHOLDS)
    tally = question.tally()
    for place in range(number):
        tally.add(images[place % len(images)])
    tally.evaluation()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(files: LabelFiles, rounds: int) -> dict[str, list[float]]:
    """Return the measured ratios, all sides in turn in each round."""
    plain = Question(num_categories=CATEGORIES, num_clusters=CATEGORIES, matching=Matching.NONE)
    curve = Question(num_categories=CATEGORIES, num_clusters=CATEGORIES, thresholds=PUBLISHED_THRESHOLDS)
    measured: dict[str, list[float]] = {}
    sides: dict[str, Callable[[], float]] = {
        "plain": lambda: plain_pass(files),
        "plain_threshold": lambda: plain_pass(files, 0.4),
        "ours": lambda: our_pass(files, plain),
        "curve": lambda: our_pass(files, curve),
        "decode": lambda: decode_pass(LabelFiles(**{**vars(files), "attention": None})),
    }
    for _ in range(rounds):
        ms = {name: 1000 * side() for name, side in sides.items()}
        CONSOLE.print("  ".join(f"{name} {value:.1f} ms" for name, value in ms.items()))
        for name, value in {
            "vs_authors": ms["plain"] / ms["ours"],
            "curve_vs_authors": NUM_THRESHOLDS * ms["plain_threshold"] / ms["curve"],
            "curve_cost": ms["curve"] / ms["ours"],
            "decode_share": ms["decode"] / ms["ours"],
            "matching_919_s": matching_seconds(),
        }.items():
            measured.setdefault(name, []).append(value)
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds, memory up to 1,000 images")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak_of:
        print_peak(given.peak_of)
        return
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(make_images(Path(folder), given.images), 2 if given.quick else given.rounds)
    many = 1000 if given.quick else 10_000
    measured[f"memory_{many}_vs_100"] = [peak_mib(many) / peak_mib(100)]
    table = Table("", "median", "min", "max")
    ratios = {name: {"median": statistics.median(v), "min": min(v), "max": max(v)} for name, v in measured.items()}
    for name, spread in ratios.items():
        table.add_row(name, *(f"{value:.2f}" for value in spread.values()))
    CONSOLE.print(table)
    if given.json:
        given.json.write_text(json.dumps({"ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
