"""Keeps two jobs from writing the same folder at once; the second one is told who is there."""

import contextlib
import getpass
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE
from luss_ray.storage.uri import Location, json_bytes

HOLDER = "holder.json"
BEAT_S, SILENCE_S = 10.0, 60.0
_POLL_S, _LAST_BEAT_S = 1.0, 5.0


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A job that writes a folder, as `holder.json` says it."""

    token: str
    """Of this one lease."""
    who: str
    """For people: user, machine, process, since when."""
    machine: str
    """The system that its process number belongs to."""
    process: str
    """Number and start time of its process."""
    beat: int = 0
    """Goes up as long as it lives."""

    @classmethod
    def mine(cls) -> "Holder":
        """Return what this process calls itself."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        who = f"{_user()} on {platform.node()}, process {os.getpid()}, since {since}"
        return cls(token=uuid.uuid4().hex, who=who, machine=_machine(), process=_process(os.getpid()) or "")

    @property
    def is_dead(self) -> bool:
        """Whether it ran on this machine and has ended: known at once, without waiting for its next beat."""
        number = self.process.partition(" ")[0]
        return self.machine == _machine() and number.isdigit() and _process(int(number)) != self.process

    @property
    def is_alive_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.machine == _machine() and not self.is_dead


class Lease:
    """Writes a beat into the folder as long as this job lives.

    Args:
        folder: what it holds.
        holder: this job, which has the lease already.
        beat_s: seconds between beats.
    """

    def __init__(self, folder: Location, holder: Holder, beat_s: float) -> None:
        self._folder, self._holder, self._beat_s = folder, holder, beat_s
        self._taken_by: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True, name="lease")
        self._thread.start()

    def check(self) -> None:
        """Raise UserError where another job took the folder, for which this one looked dead: its store was away."""
        if self._taken_by is not None:
            raise UserError(
                f"{self._folder.uri} was taken over by {self._taken_by}, while this job couldn't reach it; "
                "that one goes on from what is finished"
            )

    def end(self) -> None:
        """Give the folder back."""
        self._stop.set()
        self._thread.join(_LAST_BEAT_S)  # not for as long as a store may be away
        if self._taken_by is None:
            with contextlib.suppress(UserError):
                self._folder.delete(HOLDER)

    def _live(self) -> None:
        while not self._stop.wait(self._beat_s) and self._taken_by is None:
            with contextlib.suppress(UserError):  # a store that is away: the next beat tries again
                there = read_holder(self._folder)
                if there is not None and there.token != self._holder.token:
                    self._taken_by = there.who
                else:
                    self._holder = replace(self._holder, beat=self._holder.beat + 1)
                    self._folder.write_json(HOLDER, asdict(self._holder))


@contextlib.contextmanager
def lease(folder: Location, *, beat_s: float | None = None, silence_s: float = SILENCE_S) -> Iterator[Lease]:
    """Hold a folder while the body runs.

    A job that ended without giving its folder back, as killed ones do, is noticed at once on its own machine, and
    elsewhere when it has been silent for a while.

    Args:
        folder: of a run.
        beat_s: seconds between signs of life, BEAT_S unless given.
        silence_s: seconds without one after which a job on another machine counts as dead.

    Raises:
        UserError: another job holds it.
    """
    mine = Holder.mine()
    while not _created(folder, HOLDER, mine) and not _taken_over(folder, mine, silence_s):
        pass
    held = Lease(folder, mine, BEAT_S if beat_s is None else beat_s)
    try:
        yield held
    finally:
        held.end()


def _created(folder: Location, name: str, mine: Holder) -> bool:
    """Return whether a holder's object, which must not exist yet, is this job's."""
    return folder.create(name, json_bytes(asdict(mine))) or read_holder(folder, name) == mine


def _taken_over(folder: Location, mine: Holder, silence_s: float) -> bool:
    """Return True once this job has taken the place of a dead holder, False where the folder changed hands meanwhile.

    Of several jobs that find the same holder dead one may take its place: the one that creates the object with that
    holder's token. Where that one died before it was through, its own place is taken in the same way.

    Raises:
        UserError: who holds the folder, or takes it over, is alive.
    """
    first = found = read_holder(folder)
    name, claims = HOLDER, []
    while found is not None and _is_dead(folder, name, found, silence_s):
        name = f"holder-after-{found.token}.json"
        claims.append(name)
        if _created(folder, name, mine):
            break
        found = read_holder(folder, name)
    else:
        return False
    if through := read_holder(folder) == first:  # else somebody was quicker, and is through already
        folder.write_json(HOLDER, asdict(mine))
    for claim in claims if through else [name]:
        folder.delete(claim)
    return through


def _is_dead(folder: Location, name: str, found: Holder, silence_s: float) -> bool:
    """Return whether a holder is dead, waiting for a sign of life from one elsewhere; False where it is gone.

    Raises:
        UserError: it is alive.
    """
    if found.is_dead:
        return True
    if not found.is_alive_here:
        CONSOLE.print(f"{folder.uri} is held by {found.who}; waiting up to {silence_s:g} s for a sign of life")
    deadline = time.monotonic() + silence_s
    while True:
        there = read_holder(folder, name)
        if there is None:
            return False
        if there.is_alive_here or there != found:
            raise UserError(
                f"{folder.uri} is being written by {there.who}: wait for it, stop it, or choose another --name"
            )
        if time.monotonic() >= deadline:
            return True
        time.sleep(_POLL_S)


def read_holder(folder: Location, name: str = HOLDER) -> Holder | None:
    """Return who holds a folder, or did until it was killed; None where nobody does.

    Args:
        folder: of a run.
        name: of the object that says so.

    Raises:
        UserError: another version wrote it.
    """
    try:
        written: Any = folder.read_json(name)
        return Holder(**written)
    except FileNotFoundError:
        return None
    except TypeError:
        raise UserError(f"{folder.child(name).uri} was written by another version: delete it") from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"


def _machine() -> str:
    """Return what tells this system's process numbers from those of others: name, boot and namespace."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _process(number: int) -> str | None:
    """Return number and start time of a process that runs here, None where there is none."""
    try:
        state, *rest = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        return f"{number}" if _answers(number) else None
    return None if state in "ZX" else f"{number} {rest[18]}"


def _answers(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
