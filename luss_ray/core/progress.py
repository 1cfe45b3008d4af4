"""Progress that people look at: a live bar on a terminal, a line now and then in a log file."""

import sys
import time
from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

CONSOLE = Console(file=sys.stdout, highlight=False, soft_wrap=True)
_LINE_EVERY_S = 10.0
_WINDOW, _POINT_EVERY_S = 30, 4.0
"""Rates are those of the last two minutes."""


def clock(seconds: float) -> str:
    """Return a duration for people: `m:ss`, or `h:mm:ss` from an hour on."""
    minutes, second = divmod(int(seconds + 0.5), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class StageProgress:
    """The progress of one stage, used as a context manager.

    Args:
        name: what is going on.
        total: units of work in all.
        unit: what is counted ("steps", "shards").
        images_per_unit: images in one unit, from which the rate in images/s follows.
    """

    def __init__(self, name: str, total: int, unit: str, *, images_per_unit: float = 0.0) -> None:
        self.name, self.total, self.unit, self.images_per_unit = name, total, unit, images_per_unit
        self.started = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._next_line = self.started + _LINE_EVERY_S
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TextColumn("{task.fields[values]}"),
            console=CONSOLE,
            transient=True,
            disable=not CONSOLE.is_terminal,
        )
        self._task = self._bar.add_task(name, total=total, values="starting")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def update(self, done: int, **values: float) -> None:
        """Show that `done` units are finished; `values` are named figures to show beside it."""
        now = time.monotonic()
        self._note(now, done)
        text = self._text(values)
        self._bar.update(self._task, completed=done, values=text)
        if not CONSOLE.is_terminal and now >= self._next_line:
            self._next_line = now + _LINE_EVERY_S
            CONSOLE.print(", ".join(part for part in (f"  {self.name}: {done}/{self.total} {self.unit}", text) if part))

    def update_total(self, done: int, total: int) -> None:
        """As `update`, where the amount of work is known only on the way."""
        self.total = total
        self._bar.update(self._task, total=total)
        self.update(done)

    def note(self, line: str) -> None:
        """Print a line that stays: something happened that people should know."""
        CONSOLE.print(Text("! ", style="yellow") + Text(f"{self.name}: {line}"))

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self.started

    def _note(self, now: float, done: int) -> None:
        """Keep a point every few seconds, and the newest; work that must be done again makes a new beginning."""
        if self._recent and done < self._recent[-1][1]:
            self._recent.clear()
        if len(self._recent) > 1 and now - self._recent[-2][0] < _POINT_EVERY_S:
            self._recent.pop()
        self._recent.append((now, done))

    def _text(self, values: dict[str, float]) -> str:
        (since, before), (now, done) = self._recent[0], self._recent[-1]
        rate = (done - before) / (now - since) if now > since else 0.0
        parts = []
        if rate > 0:
            parts.append(f"ETA {clock((self.total - done) / rate)}")
            if self.images_per_unit:
                parts.append(f"{rate * self.images_per_unit:.0f} images/s")
        return ", ".join(parts + [f"{name} {value:.4g}" for name, value in values.items()])


def done_line(name: str, seconds: float | None, detail: str = "") -> None:
    """Print the line that stays when a stage is over; `seconds` is None where it was finished by an earlier run."""
    mark = Text("✓ ", style="green") if seconds is not None else Text("· ", style="dim")
    what = clock(seconds) if seconds is not None else "already done"
    CONSOLE.print(mark + Text(f"{name:<32} {what:>12}  {detail}".rstrip()))
