"""The trackers of a run together: none unless asked for, and then nothing is done."""

import contextlib
import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE
from luss_ray.track.feed import Feed
from luss_ray.track.mlflow import Mlflow
from luss_ray.track.tensorboard import TensorBoard
from luss_ray.track.tracker import Row, Tracked, TrackerName, flat
from luss_ray.track.wandb import WandB

MEMORY = "trackers"
EXTRA = "trackers"
_END_S = 30.0
_CLIENTS = {TrackerName.TENSORBOARD: TensorBoard, TrackerName.MLFLOW: Mlflow, TrackerName.WANDB: WandB}
_LIBRARIES = {TrackerName.TENSORBOARD: "tensorboardX", TrackerName.MLFLOW: "mlflow", TrackerName.WANDB: "wandb"}


class Trackers:
    """Takes what a run has to show.

    Args:
        feeds: to trackers that were reached.
    """

    def __init__(self, feeds: Sequence[Feed] = ()) -> None:
        self._feeds = feeds
        self._scores: dict[str, float] | None = None

    def __bool__(self) -> bool:
        return bool(self._feeds)

    def rows(self, stage: str, rows: Sequence[Row]) -> None:
        """Take rows of a training stage, at once; rows of steps that were tracked already are dropped."""
        for feed in self._feeds:
            feed.rows(stage, rows)

    def scores(self, metrics: Mapping[str, Any]) -> None:
        """Take the scores of a finished run, nested; whatever in it is no number is left out."""
        named = flat(metrics, "/").items()
        self._scores = {name: value for name, value in named if isinstance(value, int | float)}

    def finish(self) -> None:
        """Wait until everything is handed over, half a minute at most."""
        for feed in self._feeds:
            feed.finish(self._scores)
        deadline = time.monotonic() + _END_S
        for feed in self._feeds:
            feed.wait(deadline)


def check_installed(names: Sequence[TrackerName]) -> None:
    """Return when the libraries of trackers are there.

    Raises:
        UserError: one is not; the message says how to install it.
    """
    for name in names:
        if importlib.util.find_spec(_LIBRARIES[name]) is None:
            raise UserError(
                f"--track {name.value} needs {_LIBRARIES[name]}, which is not installed where this runs: "
                f"uv sync --inexact --extra {EXTRA}"
            )


@contextlib.contextmanager
def open_trackers(names: Sequence[TrackerName], run: Tracked) -> Iterator[Trackers]:
    """Return a context with a run's trackers, which are told at its end how the run ended.

    Args:
        names: which ones.
        run: what is tracked.

    Raises:
        UserError: one can't be reached.
    """
    feeds: list[Feed] = []
    trackers = Trackers(feeds)
    try:
        for name in dict.fromkeys(names):
            feed = Feed(name.value, _CLIENTS[name](run), run.folder / MEMORY / f"{name.value}.json")
            feed.begin()
            feeds.append(feed)
            CONSOLE.print(f"tracked by {name.value}: {feed.where}")
        yield trackers
    finally:
        trackers.finish()
