"""A plugin of pytest for `run.py`: writes down how each test ended and which files were opened, into $GOLDEN_WATCH."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

OUTCOMES: list[tuple[str, bool]] = []
OPENED: set[str] = set()


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | os.PathLike):
        OPENED.add(os.fspath(arguments[0]))


sys.addaudithook(_note_opened)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test that ran, or that couldn't; one that was skipped has compared nothing."""
    if report.when == "call" or not report.passed:
        OUTCOMES.append((report.nodeid, report.passed))


def pytest_sessionfinish() -> None:
    """Write it down."""
    Path(os.environ["GOLDEN_WATCH"]).write_text(json.dumps({"outcomes": OUTCOMES, "opened": sorted(OPENED)}))
