"""Runs a command once the cluster has enough free GPUs: `python infra/on_gpus.py NUM [--cpus NUM] -- COMMAND …`.

A cluster at rest has a head and no other node, and a job decides by what it finds. So ask first, wait, then start. The
nodes are kept until the command ends, and let go however it ends.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from luss_ray.core.command import run
from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE
from luss_ray.train.cluster import ON_CPUS

# isort: split
import ray  # after luss_ray, which sets what Ray reads when it is imported
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_SAY_EVERY_S = 60


@ray.remote(num_cpus=0)
class Keeper:
    """Takes nothing of a node, but a node with an actor isn't idle, so the autoscaler leaves it."""

    def here(self) -> None:
        """Return once it lives."""


def parse(arguments: list[str]) -> tuple[dict[str, int], list[str]]:
    """Return how many GPUs and CPUs (of all nodes together), and the command; UserError where it is no command line."""
    match arguments:
        case [gpus, "--", _, *_] if gpus.isdigit():
            return {"GPU": int(gpus), "CPU": 0}, arguments[2:]
        case [gpus, "--cpus", cpus, "--", _, *_] if gpus.isdigit() and cpus.isdigit():
            return {"GPU": int(gpus), "CPU": int(cpus)}, arguments[4:]
    raise UserError("give a number of GPUs and a command: python infra/on_gpus.py NUM [--cpus NUM] -- COMMAND …")


@contextlib.contextmanager
def keeping_nodes(wanted: dict[str, int]) -> Iterator[None]:
    """Wait until so much is free in the cluster, and keep those nodes until the end of the block, or of this process.

    It is asked for as a placement group. The autoscaler's `request_resources` is no way: whatever uses Ray Data or Ray
    Train overwrites what others have asked for.
    """
    bundles = [{kind: 1} for kind, num in wanted.items() for _ in range(num)]
    if not bundles:
        yield
        return
    group = placement_group(bundles)
    while not group.wait(_SAY_EVERY_S):
        there = ray.cluster_resources()
        waits = [f"{num} {kind}s ({there.get(kind, 0):.0f} there)" for kind, num in wanted.items() if num]
        CONSOLE.print(f"waiting for {', '.join(waits)}")
    nodes = set(placement_group_table(group)["bundles_to_node_id"].values())
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    keepers = [Keeper.options(scheduling_strategy=place).remote() for place in places]
    ray.get([keeper.here.remote() for keeper in keepers])
    remove_placement_group(group)
    yield
    del keepers


def main() -> int:
    """Wait, run the command, and return its exit code."""
    wanted, command = parse(sys.argv[1:])
    here = Path.cwd()  # by its name, since a new node of this same machine unpacks the job's folder anew
    ray.init(log_to_driver=False)  # from here on SIGTERM, which `ray job stop` sends, is an exception
    environment = os.environ if wanted["GPU"] else os.environ | {ON_CPUS: "1"}
    with keeping_nodes(wanted), subprocess.Popen(command, cwd=here, env=environment) as process:
        try:
            return process.wait()
        finally:
            process.terminate()


if __name__ == "__main__":
    run(main)
