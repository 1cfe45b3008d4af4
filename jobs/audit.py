#!/usr/bin/env -S uv run
"""Were the planned samples used, each exactly once an epoch? `python jobs/audit.py RUN`."""

from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.table import Table

from luss_ray.core.command import parsed, run
from luss_ray.core.progress import CONSOLE
from luss_ray.stages.order import Stage
from luss_ray.storage.uri import Location
from luss_ray.train.ledger import StageAudit, audit_run, begun_stages

_MOST_NAMED = 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare what every training stage of a run consumed, up to its end or its newest checkpoint, with its plan."""

    run: Annotated[str, tyro.conf.Positional]
    """The run, STORAGE/NAME: a folder or s3://bucket/prefix."""
    dry_run: bool = False
    """Say which stages would be audited. Nothing is written in any case."""


def main(options: Options) -> int:
    """Print the audit; return 1 unless everything adds up."""
    if options.dry_run:
        stages = begun_stages(Location.parse(options.run))
        CONSOLE.print(f"training stages to audit: {', '.join(stages)}; nothing has been written")
        return 0
    audits = sorted(audit_run(Location.parse(options.run)), key=_place)
    CONSOLE.print(_table(audits))
    for audit in audits:
        _print_quarantine(audit)
    wrong = [audit.stage for audit in audits if not audit.adds_up]
    if wrong:
        CONSOLE.print(f"does not add up: {', '.join(wrong)}")
        return 1
    CONSOLE.print(f"{len(audits)} training stages add up")
    return 0


def _place(audit: StageAudit) -> tuple[str, int]:
    """Return what the stages are sorted by: those of the random backbone last, each pipeline in its order."""
    prefix, _, name = audit.stage.rpartition("/")
    names = [stage.value for stage in Stage]
    return prefix, names.index(name) if name in names else len(names)


def _table(audits: list[StageAudit]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("stage", "steps", "epoch", "expected", "consumed", "replaced", ""):
        table.add_column(heading, justify="left" if heading in ("stage", "") else "right")
    for audit in audits:
        steps = f"{audit.step}/{audit.num_steps}"
        for epoch in audit.epochs:
            counts = (epoch.epoch, epoch.expected.count, epoch.used.count, epoch.used.replaced)
            table.add_row(audit.stage, steps, *map(str, counts), epoch.finding or "ok")
    return table


def _print_quarantine(audit: StageAudit) -> None:
    if audit.quarantined:
        plural = "s" * (len(audit.quarantined) != 1)
        CONSOLE.print(f"{audit.stage}: {len(audit.quarantined)} sample{plural} could not be read")
    for bad, used in list(audit.quarantined.items())[:_MOST_NAMED]:
        CONSOLE.print(f"  {bad}, instead {used}", soft_wrap=True)


if __name__ == "__main__":
    run(lambda: main(parsed(lambda: tyro.cli(Options))))
