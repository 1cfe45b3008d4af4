"""What an experiment tracker is to a run: it shows the run's figures, settings and scores beside those of others."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from luss_ray.storage.uri import Location

Row = Mapping[str, float]
"""Figures of one step of a training stage by name; `step` counts from 1 in each stage."""


class TrackerName(enum.Enum):
    """The trackers by name."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """The run that is tracked."""

    folder: Location
    """Of the run; its last part is the run's name."""
    settings: Mapping[str, Any]
    """What its result follows from, by dotted names: plain JSON values, nothing secret."""

    @property
    def name(self) -> str:
        """The run's name for people."""
        return self.folder.path.rpartition("/")[2]


class Tracker(Protocol):
    """A client of one tracker, used by one thread.

    Any call may raise whatever the tracker's library raises; `track.feed` tries again.
    """

    advice: str
    """What to do where it can't be reached."""
    where: str
    """Where people find the run, without secrets."""

    def begin(self, run_id: str | None) -> str:
        """Reach the tracker and return the id of the run there.

        Args:
            run_id: what an earlier call returned for this run, so that it goes on; None the first time.

        Raises:
            UserError: it is asked for in a way that can't work.
        """
        ...

    def log(self, stage: str, rows: Sequence[Row], at_s: float) -> None:
        """Show a stage's rows as `STAGE/FIGURE`.

        Args:
            stage: name of the training stage.
            rows: in the order of their steps.
            at_s: when they came (seconds since 1970).
        """
        ...

    def keep(self) -> bool:
        """Return whether everything logged so far outlives this process; called after rows, and when none come."""
        ...

    def finish(self, scores: Mapping[str, float] | None) -> None:
        """Show the run's scores and close it.

        Args:
            scores: by name (`finetuned/miou`), as far as there are any; None = the run was broken off.
        """
        ...


def flat(values: Mapping[str, Any], separator: str, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by the names on the way to them, joined by the separator."""
    found = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping)
        found |= flat(value, separator, f"{prefix}{name}{separator}") if nested else {prefix + name: value}
    return found
