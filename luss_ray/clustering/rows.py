"""The rows that one clustering actor holds, and what it answers about them."""

import itertools
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import threadpoolctl
from jaxtyping import Float32, Integer

from luss_ray.clustering.groups import DeviceGroup, Group, fits
from luss_ray.clustering.kmeans import ClusterSums, Sample, round_to_grid

log = logging.getLogger(__name__)

Loader = Callable[[str], Float32[np.ndarray, "n C"]]
"""File name -> rows."""
_GROUP_ROWS = {"cpu": 1 << 14, "cuda": 1 << 20}


class FeatureRows:
    """Rows of some feature files, loaded when first asked for; every answer is a pure function of the arguments.

    So an actor that was restarted answers as if it had not been. Between passes an actor remembers in which cluster
    each row was, looks only where that can have changed, and adds up only the rows that have moved. Which centroid is
    nearest is decided exactly and the sums are exact, so they are the same as if all was worked out anew.

    Args:
        loader: file name -> rows, float32 and finite.
        files: at least one name.
        num_threads: that work on the rows, at least 1.
        memory_bytes: of rows that are kept in memory; all others lie in a scratch file and are read in every pass.
        device: "cpu", or "cuda": the rows are copied to the GPU's memory and stay there, as many as find room; a CPU
            works on the others. Answers are the same bits.
    """

    def __init__(
        self, loader: Loader, files: Sequence[str], num_threads: int, memory_bytes: int, device: str = "cpu"
    ) -> None:
        threadpoolctl.threadpool_limits(1, "blas")  # the threads share out groups of rows
        self._loader, self._files, self._memory_left, self._device = loader, list(files), memory_bytes, device
        self._pool = ThreadPoolExecutor(num_threads)
        self._rows: list[Float32[np.ndarray, "_ C"]] = []
        self._groups: list[Group] = []
        self._exponent: int | None = None
        self._fit: int | None = None
        self._totals = ClusterSums.zeros(0, 0, 0)
        self._centroids: dict[int, Float32[np.ndarray, "k C"]] = {}

    def describe(self) -> list[tuple[int, int, float]]:
        """Return (rows, dimensions, largest absolute entry) of each file."""
        return [(*rows.shape, float(np.abs(rows).max(initial=0))) for rows in self._load()]

    def squared_norms(self, exponent: int) -> list[float]:
        """Return each file's sum of squared entries."""
        return [float(np.einsum("nc,nc->", rows, rows, dtype=np.float64)) for rows in self._on_grid(exponent)]

    def take(self, exponent: int, numbers: Sequence[Integer[np.ndarray, " _"]]) -> list[Float32[np.ndarray, "_ C"]]:
        """Return the rows of these numbers within each file."""
        return [rows[chosen] for rows, chosen in zip(self._on_grid(exponent), numbers, strict=True)]

    def start(self, rows: Float32[np.ndarray, "n C"], draws: list[np.ndarray]) -> list[Float32[np.ndarray, "k C"]]:
        """Return one k-means++ start, from a sample's rows, for each set of draws."""
        sample = Sample(rows)
        return list(self._pool.map(sample.plus_plus, draws))

    def step(
        self, exponent: int, fit: int, restarts: Integer[np.ndarray, " R"], centroids: Float32[np.ndarray, "R k C"]
    ) -> ClusterSums:
        """Return sums and sizes of the clusters over this actor's rows.

        Args:
            exponent: of `grid_exponent`.
            fit: number of the clustering that this pass belongs to.
            restarts: their numbers, ascending.
            centroids: of these.
        """
        self._on_grid(exponent)
        if fit != self._fit:
            self._fit, self._totals, self._centroids = fit, ClusterSums.zeros(0, *centroids.shape[1:]), {}
            for group in self._groups:
                group.forget()
        self._totals.grow(1 + int(restarts.max()))
        changed = np.ones(centroids.shape[:2], bool)
        for place, number in enumerate(restarts.tolist()):
            if number in self._centroids:
                changed[place] = (centroids[place] != self._centroids[number]).any(axis=1)
            self._centroids[number] = centroids[place].copy()
        adding = threading.Lock()

        def work(group: Group) -> None:
            for number, moved in zip(restarts.tolist(), group.move(restarts, centroids, changed), strict=True):
                with adding:
                    self._totals.sums[number] += moved.sums
                    self._totals.sizes[number] += moved.sizes

        for _ in self._pool.map(work, self._groups):
            pass
        run = slice(int(restarts[0]), int(restarts[-1]) + 1)
        some = run if run.stop - run.start == len(restarts) else restarts  # neighbours need no copy
        return ClusterSums(self._totals.sums[some], self._totals.sizes[some])

    def _load(self) -> list[Float32[np.ndarray, "_ C"]]:
        if not self._rows:
            self._rows = [self._keep(self._loader(name)) for name in self._files]
        return self._rows

    def _keep(self, rows: Float32[np.ndarray, "n C"]) -> Float32[np.ndarray, "n C"]:
        """Return the rows as they are, or where memory ends mapped from a file that has no name."""
        if rows.nbytes <= self._memory_left:
            self._memory_left -= rows.nbytes
            return rows
        with tempfile.TemporaryFile() as scratch:  # the mapping keeps it until the actor ends
            scratch.write(rows.data)
            scratch.flush()
            return np.memmap(scratch, np.float32, "r+", shape=rows.shape)

    def _on_grid(self, exponent: int) -> list[Float32[np.ndarray, "_ C"]]:
        if self._exponent != exponent:
            assert self._exponent is None, "one actor serves one clustering"
            for rows in self._load():
                round_to_grid(rows, exponent)
            self._exponent = exponent
            self._groups = list(self._placed())
        return self._rows

    def _placed(self) -> Iterator[Group]:
        """Yield all rows in groups, where each is worked on."""
        left = 0
        for pieces in _grouped(self._rows, _GROUP_ROWS[self._device]):
            if self._device != "cpu" and fits(pieces, self._device):
                yield DeviceGroup(pieces, self._device)
                continue
            left += sum(map(len, pieces))
            yield from map(Group, _grouped(pieces, _GROUP_ROWS["cpu"]))
        if left and self._device != "cpu":
            log.warning("%d rows find no room in the GPU's memory: a CPU works on them", left)


def _grouped(files: list[Float32[np.ndarray, "_ C"]], most: int) -> Iterator[list[Float32[np.ndarray, "_ C"]]]:
    """Yield neighbours together, at most `most` rows, large files in parts."""
    pieces = [rows[start : start + most] for rows in files for start in range(0, len(rows), most)]
    ends = itertools.accumulate(len(piece) for piece in pieces)
    numbered = zip(pieces, ends, strict=True)
    for _, group in itertools.groupby(numbered, key=lambda pair: (pair[1] - 1) // most):
        yield [piece for piece, _ in group]
