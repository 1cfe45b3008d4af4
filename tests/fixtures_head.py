"""Ray heads of their own, to which jobs are submitted as people do it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from fixtures_run import job_environment

_BIN = Path(sys.executable).parent


class Head:
    """A head node with its job server.

    Args:
        folder: for what Ray writes; a short path, since it holds unix sockets.
        words: further options of `ray start`.
        environment: of its processes, the jobs' included.
        client: of those who submit.
    """

    def __init__(self, folder: Path, *words: str, environment: dict[str, str], client: dict[str, str]) -> None:
        self.folder, self.port = folder, free_port()
        path = {"PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}
        self.client = job_environment(path | client | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.port}"})
        started = [_BIN / "ray", "start", "--head", "--block", "--object-store-memory=200000000"]
        started += [f"--temp-dir={folder}", "--dashboard-agent-listen-port=0", "--dashboard-host=127.0.0.1"]
        with (folder / "head.log").open("ab") as log:
            self.process = psutil.Popen(
                [*started, f"--dashboard-port={self.port}", *words],
                env=job_environment(path | environment),
                stdout=log,
                stderr=log,
            )
        self.wait_until(lambda: self.ray("job", "submit", "--", "true").returncode == 0, "job taken by the head")

    def stop(self) -> None:
        """End the head and all that it started, nodes included."""
        family = self.process.children(recursive=True)
        self.process.terminate()
        psutil.wait_procs([self.process], timeout=60)
        for left in (self.process, *family):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(family, timeout=60)

    def ray(self, *words: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a `ray` command as somebody does who may, in the head's folder or another."""
        return subprocess.run(
            [_BIN / "ray", *words],
            env=self.client,
            cwd=folder or self.folder,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def wait_until(self, event: Callable[[], object], what: str, timeout_s: float = 300) -> None:
        """Wait until something is so, while the head lives."""
        deadline = time.monotonic() + timeout_s
        while not event():
            assert self.process.poll() is None, (self.folder / "head.log").read_text()[-3000:]
            assert time.monotonic() < deadline, f"no {what} in {timeout_s} s"
            time.sleep(0.5)


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
