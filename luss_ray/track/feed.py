"""Hands a run's rows to one tracker in a thread of its own: one that is slow or away holds nothing up."""

import contextlib
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from luss_ray.core.errors import UserError
from luss_ray.storage.uri import Location
from luss_ray.track.secrets import harmless
from luss_ray.track.tracker import Row, Tracker

log = logging.getLogger(__name__)
BEGIN_S, PAUSE_S = 60.0, 10.0
_MOST_WAITING, _ROWS_AT_ONCE = 10_000, 20
_Job = Callable[[], None]


class Feed:
    """Hands over rows, each step of a stage once, and tries again for as long as the run goes on.

    Args:
        name: of the tracker, as asked for.
        tracker: its client.
        memory: the object in which the run's id there and each stage's last step are remembered.
    """

    def __init__(self, name: str, tracker: Tracker, memory: Location) -> None:
        self._name, self._tracker, self._memory = name, tracker, memory
        self._jobs: queue.Queue[_Job | None] = queue.Queue(_MOST_WAITING)
        self._begun: Future[None] = Future()
        self._away, self._over = False, threading.Event()
        self._run_id, self._steps = "", dict[str, int]()
        self._remembered: Any = None
        self._thread = threading.Thread(target=self._live, daemon=True, name=f"track {name}")

    @property
    def where(self) -> str:
        """Where people find the run."""
        return self._tracker.where

    def begin(self) -> None:
        """Reach the tracker.

        Raises:
            UserError: it can't be reached.
        """
        self._thread.start()
        try:
            self._begun.result(BEGIN_S)
        except TimeoutError:
            raise self._refusal(f"no answer in {BEGIN_S:g} s") from None

    def rows(self, stage: str, rows: Sequence[Row]) -> None:
        """Take rows of a stage; those of steps that the tracker has are dropped."""
        if rows:
            self._put(functools.partial(self._log, stage, rows, time.time()))

    def finish(self, scores: Mapping[str, float] | None) -> None:
        """Take the scores, None where the run was broken off, and let the tracker close the run."""
        self._put(functools.partial(self._tracker.finish, scores))
        self._put(self._remember)
        self._put(None)

    def wait(self, deadline: float) -> None:
        """Wait until everything is handed over, at most until `deadline` (of `time.monotonic`)."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._over.set()
        if self._thread.is_alive() and not self._away:
            log.warning("%s: %s did not take everything in time", self._name, self.where)

    def _put(self, job: _Job | None) -> None:
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait(job)

    def _live(self) -> None:
        try:
            self._begin()
            self._begun.set_result(None)
        except Exception as error:  # noqa: BLE001 (libraries raise whatever they like)
            self._begun.set_exception(self._refusal(harmless(error)))
            return
        while (job := self._next()) is not None:
            self._persist(job)

    def _begin(self) -> None:
        found = self._memory.read_json() if self._memory.exists() else {}
        self._run_id = self._tracker.begin(found.get("id"))
        if self._run_id == found.get("id"):
            self._steps = found["steps"]
        self._remember()

    def _next(self) -> _Job | None:
        try:
            return self._jobs.get(timeout=PAUSE_S)
        except queue.Empty:
            return self._remember

    def _persist(self, job: _Job) -> None:
        """Do a job, again and again until it is done or the run is over; tell when that begins and ends."""
        while not self._over.is_set():
            try:
                job()
            except Exception as error:  # noqa: BLE001 (a tracker must not end a run)
                if not self._away:
                    log.warning("%s: %s can't be reached, tries again: %s", self._name, self.where, harmless(error))
                self._away = True
                self._over.wait(PAUSE_S)
            else:
                if self._away:
                    log.warning("%s: %s is there again", self._name, self.where)
                self._away = False
                return

    def _log(self, stage: str, rows: Sequence[Row], at_s: float) -> None:
        new: list[Row] = []
        last = self._steps.get(stage, 0)
        for row in rows:
            if row["step"] > last:
                last = int(row["step"])
                new.append(row)
        for start in range(0, len(new), _ROWS_AT_ONCE):  # what was taken isn't handed over again after a failure
            part = new[start : start + _ROWS_AT_ONCE]
            self._tracker.log(stage, part, at_s)
            self._steps[stage] = int(part[-1]["step"])
        self._remember()

    def _remember(self) -> None:
        now = {"id": self._run_id, "steps": dict(self._steps)}
        if now != self._remembered and self._tracker.keep():
            self._memory.write_json("", now)
            self._remembered = now

    def _refusal(self, reason: str) -> UserError:
        return UserError(f"--track {self._name}: {self.where}: {reason}; {self._tracker.advice}")
