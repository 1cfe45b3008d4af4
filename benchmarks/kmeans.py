"""K-means beside faiss' and scikit-learn's, on features like real ones.

`uv run benchmarks/kmeans.py [--cells 200000x512x300 …] [--rounds 3] [--without-sklearn] [--quick]
[--json FILE]`

A cell is rows x dimensions x clusters. Rows are drawn from 500 overlapping clusters of unequal sizes and widths whose
spectrum falls off, and have length 1. All contenders have the same cores: ours are two actors of one thread each, which
hold their rows as faiss holds its array; the clock runs while centroids are found, from drawing the starts on.

- `vs_published_time`, `objective_vs_published`: three of our restarts of 20 iterations, over faiss' published setting,
  30 restarts of 20 iterations, all rows. Once a cell.
- `vs_faiss_equal_work`: faiss' time over ours, three restarts and 20 passes over all rows for both, in each round.
- `efficiency_1_to_2`: half the time of one actor over that of two. `machine_1_to_2` is the same for bare matrix
  products in one and two processes: what the machine itself allows.
- `of_gemm_floor`: time over what the distances' products alone take at the rate of those two processes.
- `vs_sklearn`, `vs_minibatch`, each with its `objective_…`: scikit-learn's KMeans (one k-means++ start, 20 iterations,
  two threads) and its MiniBatchKMeans as it comes: their time over ours for one restart, our objective over theirs.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import ray
import sklearn.cluster
import threadpoolctl
from rich.table import Table

from luss_ray.clustering.actors import DistributedKMeans, KMeansResult
from luss_ray.clustering.features import FeatureFiles, feature_table
from luss_ray.clustering.kmeans import normalise_rows
from luss_ray.core.progress import CONSOLE
from luss_ray.storage.uri import Location

CELLS = [f"{rows}x{k}" for rows in ("200000x512", "50000x2048") for k in (50, 300, 919)]
NUM_FILES, PUBLISHED_RESTARTS, RESTARTS, ITERATIONS = 20, 30, 3, 20


def make_features(num_rows: int, width: int) -> np.ndarray:
    """Return unit rows (num_rows, width), float32, in clusters that overlap."""
    rng, num = np.random.default_rng(0), 500
    spectrum = np.arange(1, width + 1, dtype=np.float32) ** -0.5
    centres = rng.standard_normal((num, width), np.float32) * spectrum
    chosen = rng.choice(num, num_rows, p=rng.dirichlet(np.ones(num)))
    widths = rng.uniform(0.6, 1.4, num).astype(np.float32)[chosen, None]
    return normalise_rows(centres[chosen] + rng.standard_normal((num_rows, width), np.float32) * spectrum * widths)


def objective(rows: np.ndarray, centroids: np.ndarray) -> float:
    """Return the sum of squared distances to the nearest centroid."""
    squared, _ = faiss.knn(rows, np.ascontiguousarray(centroids, np.float32), 1)
    return float(squared.sum(dtype=np.float64))


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return the seconds that finding centroids took, and these."""
    started = time.perf_counter()
    centroids = work()
    return time.perf_counter() - started, centroids


def by_faiss(rows: np.ndarray, k: int, restarts: int) -> np.ndarray:
    """Return the centroids that faiss finds in the published way."""
    kmeans = faiss.Kmeans(rows.shape[1], k, niter=ITERATIONS, nredo=restarts, max_points_per_centroid=len(rows), seed=1)
    kmeans.train(rows)
    return kmeans.centroids


def write_features(folder: Path, rows: np.ndarray) -> tuple[FeatureFiles, list[str]]:
    """Write feature files; return their loader and names."""
    loader, names = FeatureFiles(Location.parse(folder)), []
    for number, part in enumerate(np.array_split(rows, NUM_FILES)):
        names.append(f"{number:03d}.parquet")
        keys, valid = [str(place) for place in range(len(part))], np.ones(len(part), bool)
        loader.location.create_table(names[-1], feature_table(keys, part, valid, inputs="", metadata={}))
    return loader, names


def gemm_rate(num_processes: int, width: int) -> float:
    """Return the flops a second of all processes together, each multiplying matrices on one thread."""
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        return sum(pool.map(_multiply, [width] * num_processes, chunksize=1))


def _multiply(width: int) -> float:
    a, b = np.ones((4096, width), np.float32), np.ones((2048, width), np.float32)
    out = np.empty((4096, 2048), np.float32)
    with threadpoolctl.threadpool_limits(1):
        np.matmul(a, b.T, out=out)
        started, times = time.perf_counter(), 0
        while time.perf_counter() - started < 3:
            np.matmul(a, b.T, out=out)
            times += 1
        return times * 2 * 4096 * 2048 * width / (time.perf_counter() - started)


def beside_sklearn(rows: np.ndarray, k: int, seed: int, our_time: float, our_centroids: np.ndarray) -> dict[str, float]:
    """Return the ratios to scikit-learn's two."""
    lloyd = sklearn.cluster.KMeans(k, n_init=1, max_iter=ITERATIONS, tol=0, random_state=seed)
    batches = sklearn.cluster.MiniBatchKMeans(k, random_state=seed)
    ratios = {}
    with threadpoolctl.threadpool_limits(2):
        for name, peer in (("sklearn", lloyd), ("minibatch", batches)):
            seconds, found = timed(lambda peer=peer: peer.fit(rows).cluster_centers_)
            ratios[f"vs_{name}"] = seconds / our_time
            ratios[f"objective_vs_{name}"] = objective(rows, our_centroids) / objective(rows, found)
    return ratios


def measure_cell(num_rows: int, width: int, k: int, rounds: int, *, sklearn_too: bool) -> dict[str, list[float]]:
    """Return the ratios of one cell, a value a round."""
    rows, ratios = make_features(num_rows, width), defaultdict(list)
    one_flops = 2.0 * num_rows * width * k

    def note(name: str, *values: float) -> None:
        ratios[name] += values
        CONSOLE.print(f"  {name} {', '.join(f'{value:.3f}' for value in values)}")

    with tempfile.TemporaryDirectory() as folder:
        loader, names = write_features(Path(folder), rows)

        def ours(kmeans: DistributedKMeans, restarts: int, iterations: int) -> KMeansResult:
            return kmeans.fit(k, restarts=restarts, iterations=iterations, seed=1)

        for number in range(rounds):
            rate_1, rate_2 = gemm_rate(1, width), gemm_rate(2, width)
            note("machine_1_to_2", rate_2 / rate_1 / 2)
            with DistributedKMeans(loader, names, num_actors=1) as kmeans:
                alone, _ = timed(lambda: ours(kmeans, RESTARTS, ITERATIONS - 1).centroids)
            with DistributedKMeans(loader, names, num_actors=2) as kmeans:
                equal, _ = timed(lambda: ours(kmeans, RESTARTS, ITERATIONS - 1).centroids)
                single, found_1 = timed(lambda: ours(kmeans, 1, ITERATIONS).centroids)
                if number == 0:
                    best_time, best = timed(lambda: ours(kmeans, RESTARTS, ITERATIONS).centroids)
            theirs, _ = timed(lambda: by_faiss(rows, k, RESTARTS))
            note("vs_faiss_equal_work", theirs / equal)
            note("efficiency_1_to_2", alone / equal / 2)
            note("of_gemm_floor", equal * rate_2 / (one_flops * RESTARTS * ITERATIONS))
            if sklearn_too:
                for name, value in beside_sklearn(rows, k, number, single, found_1).items():
                    note(name, value)
    published_time, published = timed(lambda: by_faiss(rows, k, PUBLISHED_RESTARTS))
    note("vs_published_time", best_time / published_time)
    note("objective_vs_published", objective(rows, best) / objective(rows, published))
    return dict(ratios)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=CELLS, metavar="ROWSxDIMSxK")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-sklearn", action="store_true", help="leave out the contenders that take longest")
    parser.add_argument("--quick", action="store_true", help="one round of one small cell")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    cells, rounds = (["20000x512x100"], 1) if given.quick else (given.cells, given.rounds)
    faiss.omp_set_num_threads(2)
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=1 << 30)
    measured = {}
    for cell in cells:
        CONSOLE.print(cell)
        num_rows, width, k = (int(number) for number in cell.split("x"))
        measured[cell] = measure_cell(num_rows, width, k, rounds, sklearn_too=not given.without_sklearn)
    table = Table("", *measured)
    for name in measured[cells[0]]:
        table.add_row(name, *(_spread(ratios[name]) for ratios in measured.values()))
    CONSOLE.print(table)
    if given.json:
        names = ("vs_published_time", "objective_vs_published", "vs_faiss_equal_work", "efficiency_1_to_2")
        over_cells = {name: [value for ratios in measured.values() for value in ratios[name]] for name in names}
        ratios = {
            name: {"median": statistics.median(v), "min": min(v), "max": max(v)} for name, v in over_cells.items()
        }
        given.json.write_text(json.dumps({"ratios": ratios, "cells": measured}, indent=1))


def _spread(values: list[float]) -> str:
    middle = f"{statistics.median(values):.3f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
