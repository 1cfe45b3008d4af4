"""A run to be tracked, and libraries that talk to nobody."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from luss_ray.storage.uri import Location
from luss_ray.track.tracker import Tracked


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Keep the libraries from whatever this machine's user has set, and from reporting on themselves."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    wandb.teardown()  # so that it reads its variables anew


@pytest.fixture
def tracked(tmp_path: Path) -> Tracked:
    """Return a run that wasn't tracked before."""
    settings = {"seed": 3, "pretrain.optimisation.lr": 0.5, "backbone.widths": [8, 16], "threshold.choice": "x"}
    return Tracked(folder=Location.parse(tmp_path / "runs" / "tiny"), settings=settings)
