"""Figures of a worker's steps: for the eye, for the report, for a cluster's Prometheus."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ray.util.metrics import Gauge

from luss_ray.data.stream import num_ready
from luss_ray.storage.uri import Location
from luss_ray.train.collapse import ALARM, CollapseWatch, meaning

METRICS = "metrics.jsonl"
_LOG_ROWS = 400
_SHOW_EVERY_S = 0.5
_Batch = TypeVar("_Batch")
_DESCRIPTIONS = {
    "step": "Global steps done",
    "images_per_s": "Images of all workers a second since the last figure",
    "data/wait_s": "Seconds that a step waited for its batch, on average since the last figure",
    "data/ready_steps": "Batches of this worker that wait ready in the object store",
    "data/quarantined": "Samples that this worker could not use",
}
GAUGES = {name: f"luss_ray_{name.replace('/', '_')}" for name in _DESCRIPTIONS}
"""Figure -> the name of its gauge; in Prometheus Ray puts `ray_` before it."""


@dataclass(kw_only=True)
class Figures:
    """What one worker has to say of its steps: a few hundred rows for the report, and what goes on now."""

    stage: str
    """Name of the training stage."""
    rank: int
    """Of this worker; rank 0 keeps the rows and shows."""
    num_steps: int
    """Steps of the whole stage."""
    batch_size: int
    """Images in a step of all workers."""
    show: Callable[[int, dict[str, float]], Any]
    """Takes steps done and figures to show beside them."""
    note: Callable[[str], Any]
    """Takes a line for people."""
    track: Callable[[list[dict[str, float]]], Any] | None = None
    """Takes rows as they are kept; None = nobody asks for them."""
    history: list[dict[str, float]] = field(default_factory=list)
    """A row every now and then: `step`, `images_per_s` (since the last row), the losses, `lr`, and of this worker
    `data/wait_s` (seconds a step waited for its batch, mean since the last row), `data/ready_steps`,
    `data/quarantined`; and `alarm/NAME` = 1 while an alarm of `train.collapse` holds."""
    _steps: int = 0
    _row_steps: int = 0
    """Steps at the last row, or at the first step."""
    _row_at: float = 0.0
    """When that was."""
    _shown: float = 0.0
    _waits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._gauges = Gauges(self.stage, self.rank)
        self._collapse = CollapseWatch(self.num_steps)
        self._alarms: list[str] = []

    def go_on(self, history: list[dict[str, float]]) -> None:
        """Take up the rows of a checkpoint; a driver that was killed may not have seen all of them."""
        self.history = history
        if self.rank == 0 and self.track is not None:
            self.track(history)

    def noting_waits(self, batches: Iterator[_Batch]) -> Iterator[_Batch]:
        """Yield the batches; note how long each was waited for, the first aside, which is the pipeline's start."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                return
            if self._steps:
                self._waits.append(time.monotonic() - asked)
            yield batch

    def record(self, step: int, values: Mapping[str, float], *, num_bad: int) -> None:
        """Take the figures of one step, and how many samples this worker couldn't use so far."""
        self._steps += 1
        alarms = self._alarmed(step, values) if self.rank == 0 else []
        now = time.monotonic()
        if self._steps == 1:
            self._row_steps, self._row_at = 1, now
        last = step == self.num_steps
        log = last or step % math.ceil(self.num_steps / _LOG_ROWS) == 0
        show = last or now - self._shown > _SHOW_EVERY_S
        if not (log or show):
            return
        num = self._steps - self._row_steps
        rate = num * self.batch_size / max(now - self._row_at, 1e-9)
        wait_s = sum(self._waits) / len(self._waits) if self._waits else 0.0
        data = {"data/wait_s": round(wait_s, 6), "data/ready_steps": num_ready(), "data/quarantined": num_bad}
        if show:
            self._shown = now
            self._gauges.set({"step": step, "images_per_s": rate, **data})
        if show and self.rank == 0:
            shown = {"loss": values["loss"], "wait %": round(100 * wait_s * rate / self.batch_size, 1)}
            self.show(step, shown | ({"bad": num_bad} if num_bad else {}) | ({"alarms": len(alarms)} if alarms else {}))
        if log and self.rank == 0:
            self._keep({"step": step, "images_per_s": round(rate, 2), **values, **data}, alarms)
        if log:
            self._waits.clear()
            self._row_steps, self._row_at = self._steps, now

    def _keep(self, row: dict[str, float], alarms: list[str]) -> None:
        row |= {f"{ALARM}{alarm}": 1.0 for alarm in alarms}
        self.history.append(row)
        if self.track is not None:
            self.track([row])

    def _alarmed(self, step: int, values: Mapping[str, float]) -> list[str]:
        """Return the alarms that hold; tell when one begins or is over."""
        alarms = self._collapse.update(values)
        for alarm in alarms:
            if alarm not in self._alarms:
                self.note(f"collapse alarm at step {step}: {alarm}; {meaning(alarm)}")
        for alarm in self._alarms:
            if alarm not in alarms:
                self.note(f"collapse alarm over at step {step}: {alarm}")
        self._alarms = alarms
        return alarms

    def to_jsonl(self) -> bytes:
        """Return the rows, a line of JSON each."""
        return "".join(json.dumps(row) + "\n" for row in self.history).encode()


def read_rows(folder: Location) -> list[dict[str, float]]:
    """Return the rows that a training stage has left in its folder; [] where there are none."""
    lines = folder.read(METRICS).splitlines() if folder.exists(METRICS) else []
    return [json.loads(line) for line in lines]


class Gauges:
    """One worker's gauges, named `luss_ray_data_wait_s` and so on, with the tags `stage` and `rank`.

    Args:
        stage: name of the training stage.
        rank: of this worker.
    """

    def __init__(self, stage: str, rank: int) -> None:
        self._gauges = {}
        for name, description in _DESCRIPTIONS.items():
            gauge = Gauge(GAUGES[name], description=description, tag_keys=("stage", "rank"))
            gauge.set_default_tags({"stage": stage, "rank": str(rank)})
            self._gauges[name] = gauge

    def set(self, values: Mapping[str, float]) -> None:
        """Take those of the values that have a gauge."""
        for name in self._gauges.keys() & values.keys():
            self._gauges[name].set(values[name])
