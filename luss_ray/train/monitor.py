"""Carries figures from the training workers to whoever watches: an actor between the workers and the driver."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import ray

from luss_ray.core.errors import UserError
from luss_ray.core.progress import StageProgress

_POLL_S = 0.5


class Monitor:
    """Remembers how far a training stage is; and, where the input makes going on pointless, why it was given up."""

    def __init__(self) -> None:
        self.done, self.values, self.refusal = 0, {}, None
        self.quarantined: set[str] = set()

    def advance(self, done: int, values: dict[str, float]) -> None:
        """Note that `done` steps are finished."""
        self.done, self.values = done, values

    def put_aside(self, names: list[str]) -> int:
        """Note samples that can't be used; return how many there are, of all workers."""
        self.quarantined.update(names)
        return len(self.quarantined)

    def refuse(self, message: str) -> None:
        """Note a user error; the first one stays."""
        self.refusal = self.refusal or message

    def snapshot(self) -> tuple[int, dict[str, float], str | None]:
        """Return steps done, figures, refusal."""
        return self.done, self.values, self.refusal


@contextlib.contextmanager
def watch(progress: StageProgress) -> Iterator[Any]:
    """Show a monitor's figures in `progress` while the body runs; yield its handle for the workers.

    Raises:
        UserError: a worker refused its input.
    """
    monitor: Any = ray.remote(num_cpus=0)(Monitor).remote()
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(_POLL_S):
            done, values, _ = ray.get(monitor.snapshot.remote())
            if done:
                progress.update(done, **values)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield monitor
        refusal = ray.get(monitor.snapshot.remote())[2]
        if refusal:
            raise UserError(refusal)
    finally:
        stop.set()
        thread.join()
        ray.kill(monitor)
