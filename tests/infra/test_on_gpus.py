"""Waiting for GPUs before a command starts; Ray is played by three functions."""

import importlib.util
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from luss_ray.core.errors import UserError

PROGRAM = Path(__file__).parents[2] / "infra" / "on_gpus.py"


class Autoscaler:
    """Adds one GPU each time it is asked what there is."""

    def __init__(self) -> None:
        self.requests: list[list[dict[str, int]]] = []
        self.num_gpus = -1

    def request(self, *, bundles: list[dict[str, int]]) -> None:
        self.requests.append(bundles)

    def resources(self) -> dict[str, float]:
        self.num_gpus += 1
        return {"CPU": 4.0} | ({"GPU": float(self.num_gpus)} if self.num_gpus else {})


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("on_gpus", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_POLL_S", 0.0)
    return module


@pytest.fixture
def autoscaler(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    autoscaler = Autoscaler()
    monkeypatch.setattr(program.ray, "init", lambda **_: None)
    monkeypatch.setattr(program.ray, "cluster_resources", autoscaler.resources)
    monkeypatch.setattr(program, "request_resources", autoscaler.request)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return autoscaler


def test_the_command_starts_when_the_gpus_are_there_and_they_are_let_go(
    program: ModuleType, autoscaler: Autoscaler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = f"import pathlib, sys; pathlib.Path({str(tmp_path / 'ran')!r}).touch(); sys.exit(3)"
    monkeypatch.setattr(sys, "argv", ["on_gpus.py", "2", "--", sys.executable, "-c", script])
    assert program.main() == 3
    assert (tmp_path / "ran").exists()
    assert autoscaler.num_gpus == 2
    assert autoscaler.requests == [[{"GPU": 1}, {"GPU": 1}], []]


def test_gpus_are_let_go_when_waiting_is_interrupted(
    program: ModuleType, autoscaler: Autoscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        program._stop(signal.SIGTERM, None)

    monkeypatch.setattr(program.time, "sleep", interrupt)
    monkeypatch.setattr(sys, "argv", ["on_gpus.py", "8", "--", "true"])
    with pytest.raises(SystemExit) as stopped:
        program.main()
    assert stopped.value.code == 128 + signal.SIGTERM
    assert autoscaler.requests[-1] == []


@pytest.mark.parametrize("arguments", [[], ["8"], ["8", "--"], ["eight", "--", "true"], ["8", "true", "x"]])
def test_a_bad_command_line_is_explained(program: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(UserError, match="NUM -- COMMAND"):
        program.parse(arguments)
