"""Carries figures from the training workers to whoever watches: an actor between the workers and the driver."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from luss_ray.core.errors import UserError
from luss_ray.core.progress import StageProgress

log = logging.getLogger(__name__)
_POLL_S = 0.5


@dataclass(kw_only=True)
class Situation:
    """How a training stage fares, all workers and all their restarts together."""

    done: int = 0
    """Steps finished."""
    values: dict[str, float] = field(default_factory=dict)
    """Figures to show beside them."""
    notes: list[str] = field(default_factory=list)
    """What people should know, a line each, in the order it happened."""
    refusal: str | None = None
    """Why the stage was given up, where going on is pointless."""


class Monitor:
    """Remembers how far a training stage is, and what went wrong on the way.

    Args:
        name: of the stage.
        max_failures: restarts in a row without progress, after which the stage is given up.
    """

    def __init__(self, name: str, max_failures: int) -> None:
        self.name, self.max_failures = name, max_failures
        self.now = Situation()
        self.quarantined: set[str] = set()
        self.num_rewinds = 0
        self.rows: list[dict[str, float]] = []
        self._starts_in_a_row = self._num_workers = 0
        self._failure = "its workers died"

    def begin(self, num_workers: int = 0) -> str | None:
        """Note that the stage is started; return why it must not go on, or None.

        A group larger than the last one doesn't count: it was started because there are more workers, not because
        something went wrong.

        Args:
            num_workers: in the group, noted from its rank 0; 0 = from the driver.
        """
        grown = 0 < self._num_workers < num_workers
        self._num_workers = num_workers or self._num_workers
        self._starts_in_a_row += not grown
        if self._starts_in_a_row <= 1 + self.max_failures:
            return None
        return f"{self.name}: gave up after {self.max_failures} restarts without progress: {self._failure}"

    def save(self) -> None:
        """Note that there is a new checkpoint: whatever happened before, the stage makes progress."""
        self._starts_in_a_row = 1

    def advance(self, done: int, values: dict[str, float]) -> None:
        """Note that `done` steps are finished."""
        self.now.done, self.now.values = done, values

    def track(self, rows: list[dict[str, float]]) -> None:
        """Take rows of figures for trackers."""
        self.rows += rows

    def take_rows(self) -> list[dict[str, float]]:
        """Return the rows that came since the last call."""
        rows, self.rows = self.rows, []
        return rows

    def note(self, line: str) -> None:
        """Take a line for people."""
        self.now.notes.append(line)

    def fail(self, reason: str) -> None:
        """Note why a worker ended; the group is started again."""
        self._failure = reason

    def rewind(self) -> int:
        """Note that the group goes back because of a loss that isn't finite; return how often it has."""
        self.num_rewinds += 1
        return self.num_rewinds

    def put_aside(self, names: list[str]) -> int:
        """Note samples that can't be used; return how many there are, of all workers."""
        self.quarantined.update(names)
        return len(self.quarantined)

    def refuse(self, message: str) -> None:
        """Note a user error; the first one stays."""
        self.now.refusal = self.now.refusal or message

    def situation(self) -> Situation:
        """Return how things stand."""
        return self.now


@contextlib.contextmanager
def watch(
    progress: StageProgress, max_failures: int, track: Callable[[list[dict[str, float]]], None] | None = None
) -> Iterator[Any]:
    """Show a monitor's figures in `progress` while the body runs; yield its handle for the workers.

    It lives beside the driver, so that a lost node doesn't take it along.

    Args:
        progress: of the stage.
        max_failures: see `Monitor`.
        track: takes the rows that the workers send, and doesn't linger; None where they send none.

    Raises:
        UserError: a worker refused its input.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0)(Monitor).options(scheduling_strategy=here)
    monitor: Any = actor.remote(progress.name, max_failures)
    stop = threading.Event()

    def poll() -> None:
        num_told = 0
        while True:
            last = stop.wait(_POLL_S)
            now: Any = ray.get(monitor.situation.remote())
            for line in now.notes[num_told:]:
                log.warning(line)
                progress.note(line)
            num_told = len(now.notes)
            if track is not None:
                rows: Any = ray.get(monitor.take_rows.remote())
                track(rows)
            if last:
                return
            if now.done:
                progress.update(now.done, **now.values)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield monitor
        now: Any = ray.get(monitor.situation.remote())
        if now.refusal:
            raise UserError(now.refusal)
    finally:
        stop.set()
        thread.join()
        ray.kill(monitor)
