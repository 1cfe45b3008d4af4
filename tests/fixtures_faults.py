"""A running main job seen from outside, so that its processes can be killed and its store taken away."""

import contextlib
import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fixtures_run as job
import psutil
import pytest

from luss_ray.stages.run import BEGUN, STAGE
from luss_ray.storage.uri import Location
from luss_ray.train.figures import METRICS
from luss_ray.train.ledger import ORDER

LONG = ("--pretrain.optimisation.epochs=40", "--until=pretrain", "--checkpoint-every-s=0")
"""Options of a run whose pretraining has 150 steps and saves its state after each."""
SHARDED = {"features": ".parquet", "pseudo-labels": ".tar", "predictions": ".tar"}
"""Stages that publish shards, and how these end."""
TRAINER = "ray::RayTrainWorker"
_STARTED: list["RunningJob"] = []


@pytest.fixture(autouse=True)
def no_job_is_left_behind() -> Iterator[None]:
    """End the jobs that a test which failed has left running."""
    yield
    while _STARTED:
        left = _STARTED.pop()
        if left.process is not None and left.process.poll() is None:
            left.kill()


class RunningJob:
    """The main job in a process of its own.

    Args:
        folder: for its output and Ray's log.
        storage: where the run lies.
        options: of the job, besides the tiny ones.
        environment: variables on top of the usual ones.
        prefix: command that starts the job's own, such as `ip netns exec`.
    """

    def __init__(
        self,
        folder: Path,
        storage: str,
        *options: str,
        environment: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.folder, self.run = folder, Location.parse(storage) / "demo"
        self.command = [*prefix, *job.command(f"--storage={storage}", *options, f"--log={folder / 'ray.log'}")]
        self.environment = job.job_environment(environment)
        self.output = folder / "output.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.audited = "not audited"
        """What became of its samples, once it has finished."""

    def start(self) -> "RunningJob":
        """Start it, or start it again."""
        _STARTED.append(self)
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=self.folder, stdout=out, stderr=out, start_new_session=True
            )
        return self

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "not started"
        return self.process

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")

    def step(self, stage: str = "pretrain") -> int:
        """Return the step of a stage's newest checkpoint, 0 without one."""
        names = (self.run / stage / "checkpoints").list(suffix=".safetensors")
        return int(names[-1].removesuffix(".safetensors")) if names else 0

    def stage(self) -> str:
        """Return the stage that is under way, "" between two."""
        names = self.run.list(suffix=".json")
        begun, ended = ({n.removesuffix(f"/{end}") for n in names if n.endswith(f"/{end}")} for end in (BEGUN, STAGE))
        return next(iter(begun - ended), "")

    def results(self, stage: str) -> set[str]:
        """Return what a stage has saved so far: checkpoints, shards, figures, and that it is over."""
        names = (self.run / stage).list()
        return {name for name in names if name not in (BEGUN, ORDER) and not name.startswith("ray/")}

    def processes(self, title: str) -> list[psutil.Process]:
        """Return the processes below this one, of the job or of a cluster, whose title begins so."""
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def wait_for(self, event: Callable[[], object], what: str, timeout_s: float = 900) -> None:
        """Wait until something is so, while the job runs."""
        deadline = time.monotonic() + timeout_s
        while not event():
            assert self.running.poll() is None, f"ended before {what}: {self.said[-3000:]}"
            assert time.monotonic() < deadline, f"no {what} in {timeout_s} s: {self.said[-3000:]}"
            time.sleep(0.02)

    def wait_for_step(self, step: int, stage: str = "pretrain", timeout_s: float = 900) -> None:
        """Wait until a stage has saved this step, or is finished."""
        done = self.run / stage / "stage.json"
        self.wait_for(lambda: self.step(stage) >= step or done.exists(), f"step {step} of {stage}", timeout_s)

    def seconds_to_more(self, stage: str, before: set[str] | None = None) -> float:
        """Wait until a stage has saved more than `before`, or than it has now; return how long that took."""
        started, before = time.monotonic(), self.results(stage) if before is None else before
        assert STAGE not in before, f"{stage} was over before the fault"
        self.wait_for(lambda: self.results(stage) - before, f"more results of {stage}")
        return time.monotonic() - started

    def kill(self) -> None:
        """End the driver and all that it started, as a power cut would."""
        family = psutil.Process(self.running.pid).children(recursive=True)
        for process in (self.running, *family):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.running.wait()
        psutil.wait_procs(family, timeout=60)
        self.process = None

    def end(self, timeout_s: float = 900) -> int:
        """Wait for its end and return its exit code."""
        try:
            return self.running.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s: {self.said[-3000:]}") from None

    def finish(self, timeout_s: float = 900) -> "RunningJob":
        """Wait for its end, which must be a good one, and audit it."""
        assert self.end(timeout_s) == 0, self.said[-3000:]
        epochs = [line.split() for line in self.audit().splitlines() if line.endswith(" ok")]
        expected, used = (sum(int(epoch[column]) for epoch in epochs) for column in (3, 4))
        assert expected == used > 0
        self.audited = f"{used} samples used, 0 lost, 0 doubled"
        return self

    def audit(self) -> str:
        """Audit it, up to its newest checkpoints; it must add up. Return what was printed."""
        command = job.audit_command(self.run.uri)
        audit = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert audit.returncode == 0 and "add up" in audit.stdout, audit.stdout + audit.stderr
        return audit.stdout

    def published(self) -> dict[str, bytes]:
        """Return the shards of features, pseudo-labels and predictions."""
        shards = [(stage, name) for stage in SHARDED for name in (self.run / stage).list(suffix=SHARDED[stage])]
        assert {stage for stage, _ in shards} == SHARDED.keys()
        return {f"{stage}/{name}": (self.run / stage).read(name) for stage, name in shards}

    def losses(self, stage: str = "pretrain") -> dict[int, float]:
        """Return a stage's losses by step (counted from 1), as far as they were noted."""
        rows = map(json.loads, (self.run / stage / METRICS).read().splitlines())
        return {row["step"]: row["loss"] for row in rows}

    def result(self) -> dict:
        """Return its result.json."""
        return (self.run / "result.json").read_json()

    def weights(self, stage: str = "pretrain") -> bytes:
        """Return the weights that a stage has left."""
        return (self.run / stage / "weights.safetensors").read()


def kill_trainers(running: RunningJob, times: int, seed: int = 0) -> list[float]:
    """Kill a training worker `times` times, some steps apart; return the seconds until the next step each time."""
    rng, seconds = random.Random(seed), []
    running.wait_for_step(1)
    for _ in range(times):
        at = running.step() + rng.randint(1, 3)
        running.wait_for_step(at)
        running.wait_for(lambda: running.processes(TRAINER), "training worker")
        rng.choice(running.processes(TRAINER)).kill()
        killed, last = time.monotonic(), running.step()
        # The step that was under way may still be saved by the worker that lives on.
        running.wait_for_step(last + 2)
        seconds.append(time.monotonic() - killed)
    return seconds
