"""The S3 server for local trials."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "infra" / "local_s3.py"
NUM_PORTS = 10


def _free_port() -> int:
    """Return the first of a run of free ports."""
    for first in range(21000, 30000, NUM_PORTS):
        try:
            for port in range(first, first + NUM_PORTS):
                with socket.socket() as each:
                    each.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="s3-", dir="/tmp", ignore_cleanup_errors=True) as folder:  # short: sockets
        yield Path(folder)


def _start(folder: Path, port: int) -> tuple[subprocess.Popen[str], dict[str, str]]:
    command = [sys.executable, str(PROGRAM), "--folder", str(folder), "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    variables = {}
    for line in process.stdout:
        if line.startswith("export "):
            name, value = line.removeprefix("export ").strip().split("=", 1)
            variables[name] = value
        if "AWS_DEFAULT_REGION" in variables:
            break
    return process, variables


def _stop(process: subprocess.Popen[str]) -> int:
    process.terminate()
    code = process.wait(timeout=30)
    assert process.stdout is not None
    process.stdout.close()
    return code


def test_printed_variables_work_and_data_outlives_a_restart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luss_ray.storage.uri import Location

    port = _free_port()
    process, variables = _start(folder, port)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    location = Location.parse("s3://trial/folder")
    assert location.create("hello", b"hello")
    assert _stop(process) == 0

    process, again = _start(folder, port)
    assert again == variables, "the keys are made up once"
    assert location.read("hello") == b"hello"
    assert _stop(process) == 0


def test_keys_are_random_and_for_their_owner_only(folder: Path) -> None:
    import runpy

    variables = runpy.run_path(str(PROGRAM))["_variables"]
    first, second = variables(folder / "a", 1), variables(folder / "b", 1)
    assert first["AWS_SECRET_ACCESS_KEY"] != second["AWS_SECRET_ACCESS_KEY"]
    assert (folder / "a" / "s3.json").stat().st_mode & 0o077 == 0
