"""Ends a worker that no longer makes progress, after it has shown where it hangs."""

import faulthandler
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

_POLLS_PER_TIMEOUT, _LONGEST_POLL_S = 10, 5.0
_GRACE_S = 10.0


class StallGuard:
    """Watches one worker from a thread of its own, used as a context manager.

    Workers step together, so when one hangs all of them notice within a moment; each shows its stacks and waits a
    little for the others before it ends, since the group is torn down as soon as one is gone.

    Args:
        timeout_s: time without `alive` after which the worker is ended.
        leave: takes the stacks of all threads as text and keeps them; it may hang or fail as well.
        end: ends the process.
        grace_s: time between the stacks and the end.
    """

    def __init__(
        self,
        timeout_s: float,
        leave: Callable[[str], None],
        *,
        end: Callable[[], None] = lambda: os._exit(1),
        grace_s: float = _GRACE_S,
    ) -> None:
        self.timeout_s, self.leave, self.end, self.grace_s = timeout_s, leave, end, grace_s
        self._alive = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall-guard", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def alive(self) -> None:
        """Note that there was progress."""
        self._alive = time.monotonic()

    def _watch(self) -> None:
        poll_s = min(_LONGEST_POLL_S, self.timeout_s / _POLLS_PER_TIMEOUT)
        while not self._over.wait(poll_s):
            # Where native code hangs and lets no Python run, not even this thread, this one ends the process.
            faulthandler.dump_traceback_later(self.timeout_s + 2 * self.grace_s, exit=True, file=2)
            if time.monotonic() - self._alive > self.timeout_s:
                self._give_up()
                return

    def _give_up(self) -> None:
        end = threading.Timer(self.grace_s, self.end)
        end.daemon = True
        end.start()
        self.leave(stacks())


def stacks() -> str:
    """Return where every thread of this process is, the innermost call first."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stacks"
        with path.open("w") as out:
            faulthandler.dump_traceback(out, all_threads=True)
        return path.read_text()
