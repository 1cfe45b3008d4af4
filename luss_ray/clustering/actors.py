"""K-means over feature files on Ray: actors hold the rows, the driver holds the centroids."""

import functools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import numpy as np
import ray
import ray.exceptions
from jaxtyping import Float32, Float64, Int64
from ray._private.state import state

from luss_ray.clustering.kmeans import (
    ClusterSums,
    grid_exponent,
    inertias,
    move_centroids,
    num_candidates,
    sample_size,
)
from luss_ray.clustering.rows import FeatureRows, Loader
from luss_ray.core.errors import UserError
from luss_ray.core.seeds import CLUSTERS, generator

log = logging.getLogger(__name__)
_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")
_LITTLE_MEMORY = 2 << 30
_LOOK_EVERY_S = 10.0
_PATIENCE_S = 120.0
"""How long an actor may be without a place in the cluster before the others take its rows over."""
_NUM_WAVES = 2
"""Groups of restarts that take turns, so that actors work on one while the driver moves the other's centroids. Where
rows lie on disk all restarts share one pass, for the passes are what takes time there."""


@dataclass(frozen=True)
class KMeansResult:
    """The best restart's centroids and how all of them fared."""

    centroids: Float32[np.ndarray, "k C"]
    inertia: float
    """Sum of squared distances of all rows to their nearest centroid."""
    restart: int
    """Number of the best restart, the first of equals."""
    history: list[list[float]]
    """Inertia of each restart at each iteration, the start first; one that has ended keeps its last one."""
    dropped_at: list[int | None]
    """Iteration at which a restart was dropped because it could not win any more; None where it was not."""
    num_rows: int


class FewerPlacesError(Exception):
    """Actors have had no place in the cluster for too long: another job has it, or a node is gone.

    Args:
        num_placed: actors that have one.
    """

    def __init__(self, num_placed: int) -> None:
        super().__init__(f"{num_placed} actors have a place")
        self.num_placed = num_placed


def _by_those_with_a_place(method: Callable[_Given, _Answer]) -> Callable[_Given, _Answer]:
    """Make a method of k-means start anew where actors have no place, with the others: it gives the same."""

    @functools.wraps(method)
    def again_and_again(*args: _Given.args, **kwargs: _Given.kwargs) -> _Answer:
        while True:
            try:
                return method(*args, **kwargs)
            except FewerPlacesError as error:
                kmeans: Any = args[0]
                kmeans.start_again(error)

    return again_and_again


@dataclass
class DistributedKMeans:
    """Exact Lloyd k-means over rows that live in Ray actors.

    Results don't depend on the number of actors or their threads, nor on actors dying or finding no place in the
    cluster, whose rows the others take over after a while: rows are rounded to a grid on
    which float64 sums are exact (see `grid_exponent`), which centroid is nearest is decided in float64 where float32
    can't tell (see `nearest.decide`), and a restarted actor loads its files again. From the same starts another kind of
    processor, or a GPU, gives the same bits too; the starts themselves are drawn by float32 products.

    Args:
        loader: picklable; file name -> rows (float32, n x C). `clustering.features.FeatureFiles` is one.
        files: names, in the order that numbers the rows.
        num_actors: at most one a file is started.
        num_cpus: logical CPUs of an actor; it runs max(1, num_cpus) threads.
        num_gpus: of an actor; above 0 its rows lie in the memory of a GPU.
        memory_bytes: of rows that an actor keeps in RAM, those beyond lie in a scratch file; by default half of what
            Ray counts as a node's memory, shared by the actors on it.

    Source: PASS (arXiv 2106.03149), step 2.2; Lloyd's algorithm. The authors run faiss on one machine, unseeded, from
    random rows.
    """

    loader: Loader
    files: Sequence[str]
    num_actors: int = 1
    num_cpus: float = 1
    num_gpus: float = 0
    memory_bytes: int | None = None
    actors: list = field(init=False, repr=False, default_factory=list)
    _num_fits: int = field(init=False, repr=False, default=0)

    def __enter__(self) -> "DistributedKMeans":
        """Start the actors, let them load and learn the sizes.

        Raises:
            UserError: no rows, or files of different dimensions.
        """
        if not self.files:
            raise UserError("no feature file to cluster: extract features first")
        self._start(min(self.num_actors, len(self.files)))
        return self

    def _start(self, num_actors: int) -> None:
        """Start so many actors, or as many as have a place."""
        actor = ray.remote(FeatureRows).options(
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            max_restarts=-1,
            max_task_retries=3,
            scheduling_strategy="SPREAD",
        )
        parts = np.array_split(np.arange(len(self.files)), num_actors)
        self._parts = [[self.files[number] for number in part] for part in parts]
        threads, device = max(1, int(self.num_cpus)), "cuda" if self.num_gpus else "cpu"
        memory_bytes = _share_of_memory(len(parts)) if self.memory_bytes is None else self.memory_bytes
        self.actors = [actor.remote(self.loader, part, threads, memory_bytes, device) for part in self._parts]
        try:
            self._describe(memory_bytes)
        except FewerPlacesError as error:
            self.start_again(error)
        except BaseException:
            self.__exit__()
            raise

    def start_again(self, error: FewerPlacesError) -> None:
        """Give the rows to the actors that have a place; to one, which waits for its own, where none has."""
        log.warning("k-means: %s of %d, and take over the rows of the others", error, len(self.actors))
        self.__exit__()
        self._start(max(1, error.num_placed))

    def __exit__(self, *_: object) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def _describe(self, memory_bytes: int) -> None:
        shapes = self._from_all("describe")
        self._sizes = np.array([rows for rows, _, _ in shapes])
        self.num_rows = int(self._sizes.sum())
        if not self.num_rows:
            raise UserError(f"the {len(self.files)} feature files hold no row: check the extraction's quarantine")
        widths = [width for _, width, _ in shapes]
        if len(set(widths)) > 1:
            odd = next(name for name, width in zip(self.files, widths, strict=True) if width != widths[0])
            raise UserError(f"{odd} has another feature dimension than {self.files[0]}: delete it and extract again")
        self._exponent = grid_exponent(self.num_rows, max(largest for _, _, largest in shapes))
        ends = np.cumsum([len(part) for part in self._parts])
        most = 4 * widths[0] * max(sizes.sum() for sizes in np.split(self._sizes, ends[:-1]))
        self._num_waves = _NUM_WAVES if most <= memory_bytes else 1
        self._squared_norm = sum(self._from_all("squared_norms", self._exponent))

    def _from_all(self, method: str, *arguments: object) -> list:
        """Call a method of every actor; join their answers, one a file, in the order of the files."""
        answers = self._get([getattr(actor, method).remote(*arguments) for actor in self.actors])
        return [answer for part in answers for answer in part]

    @_by_those_with_a_place
    def fit(
        self,
        k: int,
        *,
        restarts: int = 30,
        iterations: int = 20,
        seed: int = 0,
        tolerance: float = 0.0,
        drop_hopeless: bool = False,
        sample_rows: int | None = None,
        callback: Callable[[int, list[float]], None] | None = None,
    ) -> KMeansResult:
        """Return the best of several restarts, all advanced together in each pass over the rows.

        Every iteration assigns every row. Only the START uses a sample: k-means++ on rows drawn evenly by their number
        among all rows, the same for every restart, with other draws.

        Args:
            k: clusters, at most the number of rows.
            restarts: at least 1.
            iterations: times the centroids move at most; one more pass scores the last ones.
            seed: start of all draws.
            tolerance: a restart has converged when its inertia falls by at most this share and no cluster was empty.
            drop_hopeless: end a restart that, falling by as much as in its last pass until the last iteration, would
                still not reach what the best one had before that pass. Falls shrink from pass to pass but for rare
                exceptions, so the winner stays but for these; the result says which ones were dropped, and when.
            sample_rows: rows of the start's sample, `sample_size(k)` unless given; all rows where fewer.
            callback: called after every pass with its number (0 = the start's) and each restart's inertia; from 0 again
                where actors have lost their place and the others start anew.

        Raises:
            UserError: more clusters than rows.
        """
        if not 1 <= k <= self.num_rows:
            raise UserError(f"{k} clusters of {self.num_rows} features: ask for 1 to {self.num_rows}")
        self._num_fits += 1
        centroids = self._starts(self._sample(seed, max(k, sample_rows or sample_size(k))), k, seed, restarts)
        best, last = centroids.copy(), np.full(restarts, np.inf)
        history, dropped_at = [], np.full(restarts, -1)
        parts = np.array_split(np.arange(restarts), min(restarts, self._num_waves))
        waves = deque(self._submit(part, centroids[part]) for part in parts)
        for iteration in range(iterations + 1):
            bar = last.min()
            for _ in range(len(waves)):
                active, answers = waves.popleft()
                part = ClusterSums.total(self._get([answer])[0] for answer in answers)
                inertia = inertias(part, centroids[active], self._squared_norm)
                fall = last[active] - inertia
                better = active[fall >= 0]
                best[better] = centroids[better]
                centroids[active], num_empty = move_centroids(part, centroids[active])
                going = (num_empty > 0) | (fall > tolerance * inertia)
                last[active] = np.minimum(inertia, last[active])
                if drop_hopeless and iteration > 0:
                    hopeless = (num_empty == 0) & (inertia - (iterations - iteration) * fall > bar)
                    dropped_at[active[going & hopeless]] = iteration
                    going &= ~hopeless
                if iteration < iterations and going.any():
                    waves.append(self._submit(active[going], centroids[active[going]]))
            history.append(last.tolist())
            num_going = sum(len(active) for active, _ in waves)
            log.info("k-means iteration %d: best inertia %.6g, %d restarts go on", iteration, last.min(), num_going)
            if callback is not None:
                callback(iteration, history[-1])
            if not waves:
                break
        winner = int(last.argmin())
        dropped = [None if at < 0 else int(at) for at in dropped_at]
        return KMeansResult(best[winner], float(last[winner]), winner, history, dropped, self.num_rows)

    def _submit(
        self, restarts: Int64[np.ndarray, " R"], centroids: Float32[np.ndarray, "R k C"]
    ) -> tuple[Int64[np.ndarray, " R"], list]:
        """Ask every actor for a pass of some restarts; return these and where the answers will be."""
        shared = ray.put(centroids)
        return restarts, [actor.step.remote(self._exponent, self._num_fits, restarts, shared) for actor in self.actors]

    def _sample(self, seed: int, num: int) -> Float32[np.ndarray, "m C"]:
        chosen = np.arange(self.num_rows)
        if num < self.num_rows:
            chosen = np.sort(generator(seed, CLUSTERS).choice(self.num_rows, num, replace=False))
        ends = np.cumsum(self._sizes)
        per_file = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
        local = [numbers - start for numbers, start in zip(per_file, ends - self._sizes, strict=True)]
        calls, first = [], 0
        for actor, files in zip(self.actors, self._parts, strict=True):
            calls.append(actor.take.remote(self._exponent, local[first : first + len(files)]))
            first += len(files)
        return np.concatenate([rows for part in self._get(calls) for rows in part])

    def _starts(
        self, sample: Float32[np.ndarray, "m C"], k: int, seed: int, restarts: int
    ) -> Float32[np.ndarray, "R k C"]:
        """Let the actors work out the starts, turn by turn; which one does it makes no difference."""
        num = num_candidates(k)
        draws: list[Float64[np.ndarray, "k candidates"]] = [
            generator(seed, CLUSTERS, number).random((k, num)) for number in range(restarts)
        ]
        shared, num_actors = ray.put(sample), len(self.actors)
        calls = [actor.start.remote(shared, draws[turn::num_actors]) for turn, actor in enumerate(self.actors)]
        starts: list = [None] * restarts
        for turn, answer in enumerate(self._get(calls)):
            starts[turn::num_actors] = answer
        return np.stack(starts)

    def _get(self, calls: list) -> list:
        """The answers; a user's error in an actor comes out as the one line that it is, without Ray's traceback.

        Raises:
            FewerPlacesError: some of the actors that are asked have had no place for too long, and not all are alone.
        """
        seen, since = len(self.actors), time.monotonic()
        while len(ray.wait(calls, num_returns=len(calls), timeout=_LOOK_EVERY_S)[0]) < len(calls):
            num_placed = sum(map(_has_place, self.actors))
            if num_placed != seen or num_placed == len(self.actors) or len(self.actors) == 1:
                seen, since = num_placed, time.monotonic()
            elif time.monotonic() - since > _PATIENCE_S:
                raise FewerPlacesError(num_placed)
        try:
            return ray.get(calls)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise


def _has_place(actor: Any) -> bool:
    return state.actor_table(actor._actor_id.hex()).get("State") == "ALIVE"


def _share_of_memory(num_actors: int) -> int:
    """Return the bytes of rows that each of some actors, spread over the nodes, may keep in RAM."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    sizes = [resources.get("memory", _LITTLE_MEMORY) for resources in nodes]
    return int(min(sizes, default=_LITTLE_MEMORY)) // 2 // math.ceil(num_actors / max(1, len(sizes)))
