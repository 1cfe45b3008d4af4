"""The rows that one clustering actor holds, and what it answers about them."""

from collections.abc import Callable, Sequence

import faiss
import numpy as np
from jaxtyping import Float32, Int64, Integer

from luss_ray.clustering.kmeans import ClusterSums, assign_and_sum, nearest_centroids, plus_plus, round_to_grid

Loader = Callable[[str], Float32[np.ndarray, "n C"]]
"""File name -> rows."""


class FeatureRows:
    """Rows of some feature files, loaded when first asked for; every answer is a pure function of the arguments.

    So an actor that was restarted answers as if it had not been.

    Args:
        loader: file name -> rows, float32 and finite.
        files: at least one name.
        num_threads: of the search, at least 1.
        gpu: search on the GPU where faiss sees one.
    """

    def __init__(self, loader: Loader, files: Sequence[str], num_threads: int, gpu: bool) -> None:
        faiss.omp_set_num_threads(num_threads)
        self._loader, self._files = loader, list(files)
        self._gpu = gpu and faiss.get_num_gpus() > 0
        self._rows: list[Float32[np.ndarray, "n C"]] = []
        self._exponent: int | None = None

    def describe(self) -> list[tuple[int, int, float]]:
        """Return (rows, dimensions, largest absolute entry) of each file."""
        return [(*rows.shape, float(np.abs(rows).max(initial=0))) for rows in self._load()]

    def squared_norms(self, exponent: int) -> list[float]:
        """Return each file's sum of squared entries."""
        return [float(np.einsum("nc,nc->", rows, rows, dtype=np.float64)) for rows in self._on_grid(exponent)]

    def take(self, exponent: int, numbers: Sequence[Integer[np.ndarray, " _"]]) -> list[Float32[np.ndarray, "_ C"]]:
        """Return the rows of these numbers within each file."""
        return [rows[chosen] for rows, chosen in zip(self._on_grid(exponent), numbers, strict=True)]

    def start(self, sample: Float32[np.ndarray, "n C"], k: int, draws: list) -> list[Float32[np.ndarray, "k C"]]:
        """Return one k-means++ start for each row of draws."""
        return [plus_plus(sample, k, row) for row in draws]

    def step(self, exponent: int, centroids: Float32[np.ndarray, "R k C"]) -> ClusterSums:
        """Return sums and sizes of the clusters over this actor's rows."""
        files = self._on_grid(exponent)
        total = assign_and_sum(files[0], centroids, gpu=self._gpu)
        for rows in files[1:]:
            total += assign_and_sum(rows, centroids, gpu=self._gpu)
        return total

    def assign(self, exponent: int, centroids: Float32[np.ndarray, "k C"]) -> list[Int64[np.ndarray, " n"]]:
        """Return the nearest centroid of every row, file by file."""
        return [nearest_centroids(rows, centroids, gpu=self._gpu) for rows in self._on_grid(exponent)]

    def _load(self) -> list[Float32[np.ndarray, "n C"]]:
        if not self._rows:
            self._rows = [self._loader(name) for name in self._files]
        return self._rows

    def _on_grid(self, exponent: int) -> list[Float32[np.ndarray, "n C"]]:
        if self._exponent != exponent:
            assert self._exponent is None, "one actor serves one clustering"
            rows = self._load()
            for number, file_rows in enumerate(rows):
                rows[number] = round_to_grid(file_rows, exponent)
            self._exponent = exponent
        return self._rows
