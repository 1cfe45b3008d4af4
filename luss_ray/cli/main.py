"""`luss-ray`: what is neither a job nor about shards: `doctor` before a run, `watch RUN` during one."""

import sys
from typing import Annotated

import tyro

from luss_ray.core.command import check_subcommand, parsed, run


def doctor(
    recipe: Annotated[str, tyro.conf.Positional] = "demo",
    /,
    *,
    storage: str = "runs",
    data: str | None = None,
    images: int | None = None,
    workers: int = 1,
    quick: bool = False,
) -> int:
    """Check this machine, the object store and the cluster, and say what a recipe would take here.

    Args:
        recipe: whose training is tried for a few steps.
        storage: where runs would be kept: a folder or s3://bucket/prefix; it is written to and cleaned again.
        data: sharded dataset of the run, which is opened and read from.
        images: training images that hours are worked out for; by default those of --data, or of the recipe's benchmark.
        workers: training workers like this machine.
        quick: leave out the trial of training.
    """
    from luss_ray.cli.doctor import examine, show  # noqa: PLC0415 (takes seconds)

    found = examine(recipe, storage=storage, data=data, images=images, workers=workers, quick=quick)
    return show(found)


def watch(run: Annotated[str, tyro.conf.Positional], /, *, every: float = 5.0, once: bool = False) -> None:
    """Show how far a run is, from what lies in its folder, wherever it runs; Ctrl-C ends the watching alone.

    Args:
        run: its folder, here or in s3://.
        every: seconds between looks.
        once: look once.
    """
    from luss_ray.cli.watch import watch as follow  # noqa: PLC0415 (takes seconds)

    follow(run, every, once=once)


def main() -> None:
    """Do what the command line asks."""
    run(_chosen)


def _chosen() -> int | None:
    commands = {"doctor": doctor, "watch": watch}
    check_subcommand(sys.argv[1:], commands)
    return parsed(lambda: tyro.extras.subcommand_cli_from_dict(commands, prog="luss-ray", description=__doc__))


if __name__ == "__main__":
    main()
