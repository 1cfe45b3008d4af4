"""A run's progress from its folder: nothing is asked of the job, so any machine that reads the storage can watch."""

import time
from dataclasses import dataclass, field
from typing import Any

from rich.live import Live
from rich.table import Table

from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE, clock
from luss_ray.report.collect import RESULT
from luss_ray.report.page import STAGES
from luss_ray.stages.run import BEGUN, RUN, STAGE, Origin, read_origin
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.lease import SILENCE_S, Holder, read_holder
from luss_ray.storage.uri import Location
from luss_ray.train.figures import read_rows
from luss_ray.train.ledger import ORDER

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 32
_FIGURES = ("loss", "images_per_s", "lr", "data/wait_s")


@dataclass(kw_only=True)
class StageState:
    """How far one stage is."""

    name: str
    seconds: float | None
    """What it took; None while it is not done."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """Figures of a training stage so far."""
    num_steps: int | None = None
    """Steps of a training stage, where they are known."""
    batch_size: int = 0
    """Images a step."""
    num_files: int = 0
    """What other stages have published so far."""

    @property
    def remaining_s(self) -> float | None:
        """Seconds that are left, by the rate so far; None where it can't be told."""
        if self.num_steps is None or len(self.rows) < 2 or not self.rows[-1].get("images_per_s"):
            return None
        done, rate = self.rows[-1]["step"], self.rows[-1]["images_per_s"]
        return (self.num_steps - done) * self.batch_size / rate if self.batch_size else None


def read_states(run: Location) -> list[StageState]:
    """Return the stages that were begun, in their order.

    Raises:
        UserError: there is no run.
    """
    if not run.exists(RUN):
        raise UserError(f"no run at {run.uri} ({RUN} was looked for): give its folder, e.g. runs/demo")
    origin = read_origin(run)
    begun = [name.removesuffix(f"/{BEGUN}") for name in run.list(suffix=f"/{BEGUN}")]
    order = {name: place for place, name in enumerate(STAGES)}
    states = [_state(run / name, name, origin) for name in begun]
    return sorted(states, key=lambda state: ("/" in state.name, order.get(state.name.rpartition("/")[2], len(order))))


def _state(folder: Location, name: str, origin: Origin) -> StageState:
    about: Any = folder.read_json(STAGE) if folder.exists(STAGE) else None
    state = StageState(name=name, seconds=about and about["seconds"], rows=read_rows(folder))
    if about is None:
        state.num_files = len(folder.list()) - 1
        if folder.exists(ORDER):
            order = folder.read_json(ORDER)
            state.batch_size, state.num_steps = order["global_batch"], _num_steps(origin, order)
    return state


def _num_steps(origin: Origin, order: dict[str, Any]) -> int | None:
    """Return the steps of a training stage, given what its plan follows from: jobs train on different splits."""
    try:
        num_images = len(ShardedDataset.open(Location.parse(origin.data_uri)).split(order["split"]))
    except UserError:
        return None  # the data can't be read from here
    return order["epochs"] * num_images // order["global_batch"]


def curve(values: list[float]) -> str:
    """Return values as a row of blocks, the highest one full."""
    if not values:
        return ""
    step = max(1, len(values) // _WIDTH)
    means = [sum(part) / len(part) for part in (values[at : at + step] for at in range(0, len(values), step))]
    low, high = min(means), max(means)
    return "".join(
        _BLOCKS[round((value - low) / ((high - low) or 1) * (len(_BLOCKS) - 1))] for value in means[-_WIDTH:]
    )


def table(run: Location, states: list[StageState]) -> Table:
    """Return the states as people look at them."""
    shown = Table("stage", "", "loss", "", title=run.uri, title_justify="left", box=None, pad_edge=False)
    for state in states:
        last = state.rows[-1] if state.rows else {}
        figures = ", ".join(f"{name} {last[name]:.4g}" for name in _FIGURES if name in last)
        losses = curve([row["loss"] for row in state.rows if "loss" in row])
        if state.seconds is not None:
            shown.add_row(f"[green]✓[/green] {state.name}", clock(state.seconds), losses, figures)
        elif state.rows:
            of = f"/{state.num_steps}" if state.num_steps else ""
            left = f", ETA {clock(state.remaining_s)}" if state.remaining_s is not None else ""
            shown.add_row(f"[bold]… {state.name}[/bold]", f"{last['step']:.0f}{of} steps{left}", losses, figures)
        else:
            shown.add_row(f"[bold]… {state.name}[/bold]", f"{state.num_files} files", "", "")
    return shown


@dataclass(kw_only=True)
class _End:
    """Looks for the end of a run: its result is the last one, and no job is at work on it."""

    run: Location
    silence_s: float
    """Without a sign of life after which a job on another machine counts as dead."""
    holder: Holder | None = None
    """The last sign of life."""
    since: float = 0.0
    """When it was first seen."""

    def reached(self) -> bool:
        """Whether it has ended; what was stopped before its end has not, and goes on when its job is started again."""
        if not self.run.exists(RESULT) or self.run.read_json(RESULT).get("under_way"):
            return False
        holder = read_holder(self.run)
        if holder != self.holder:
            self.holder, self.since = holder, time.monotonic()
        if holder is None or holder.is_dead:
            return True
        return not holder.is_alive_here and time.monotonic() - self.since >= self.silence_s


def watch(text: str, every_s: float, *, once: bool, silence_s: float = SILENCE_S) -> None:
    """Show a run's stages, again and again until it has ended or somebody interrupts.

    Args:
        text: the run's folder.
        every_s: seconds between looks.
        once: look once.
        silence_s: seconds without a sign of life after which a job on another machine counts as dead.

    Raises:
        UserError: there is no run.
    """
    if every_s < 0:
        raise UserError(f"--every {every_s:g}: must not be negative")
    run = Location.parse(text)
    states = read_states(run)
    if once or not CONSOLE.is_terminal:
        CONSOLE.print(table(run, states))
        return
    end = _End(run=run, silence_s=silence_s)
    with Live(table(run, states), console=CONSOLE, auto_refresh=False) as live:
        while not end.reached():
            time.sleep(every_s)
            live.update(table(run, read_states(run)), refresh=True)
        live.update(table(run, read_states(run)), refresh=True)
    CONSOLE.print("the run has ended")
