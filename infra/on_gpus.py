"""Runs a command once the cluster has enough GPUs: `python infra/on_gpus.py NUM -- COMMAND …`.

A cluster at rest has no GPU nodes, and a job decides by what it finds. So ask for them first, wait, then start.
"""

import signal
import subprocess
import sys
import time
from types import FrameType

from luss_ray.core.command import run
from luss_ray.core.errors import UserError
from luss_ray.core.progress import CONSOLE

# isort: split
import ray  # after luss_ray, which sets what Ray reads when it is imported
from ray.autoscaler.sdk import request_resources

_POLL_S, _SAY_EVERY_S = 5.0, 60.0


def parse(arguments: list[str]) -> tuple[int, list[str]]:
    """Return the number of GPUs and the command; UserError where the command line is none."""
    if len(arguments) < 3 or not arguments[0].isdigit() or arguments[1] != "--":
        raise UserError("give a number of GPUs and a command: python infra/on_gpus.py NUM -- COMMAND …")
    return int(arguments[0]), arguments[2:]


def wait_for_gpus(num: int) -> None:
    """Ask the autoscaler for `num` GPUs and return when they are there."""
    request_resources(bundles=[{"GPU": 1}] * num)
    next_line = time.monotonic()
    while (found := int(ray.cluster_resources().get("GPU", 0))) < num:
        if time.monotonic() >= next_line:
            CONSOLE.print(f"waiting for GPUs: {found} of {num}")
            next_line += _SAY_EVERY_S
        time.sleep(_POLL_S)


def main() -> int:
    """Wait, run the command, let the GPUs go, and return the command's exit code."""
    num, command = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, _stop)
    ray.init(log_to_driver=False)
    try:
        wait_for_gpus(num)
        with subprocess.Popen(command) as process:
            try:
                return process.wait()
            finally:
                process.terminate()
    finally:
        request_resources(bundles=[])


def _stop(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    run(main)
