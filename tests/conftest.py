"""Fixtures of the whole suite."""

import os
import zipfile
from pathlib import Path

import hypothesis
import pytest

import luss_ray  # noqa: F401  first of all, since it sets what Ray reads on import
from luss_ray.storage import store

pytest_plugins = [
    "fixtures_faults",
    "fixtures_proxy",
    "fixtures_ray",
    "fixtures_run",
    "fixtures_s3",
    "fixtures_shards",
    "fixtures_imagenet",
]

# Machines are of any speed and busy with other things: no test has a time to keep.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that compare with the published systems' own numbers."""
    for item in items:
        if "golden" in getattr(item, "fixturenames", ()):
            item.add_marker("reference")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo `be_patient` between tests: it is for the rest of a process."""
    monkeypatch.setattr(store, "_retries", store._RETRIES)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder with the published systems' own numbers, for the tests that compare with them."""
    folder = Path(os.environ.get("LUSS_RAY_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
    if not folder.is_dir():
        pytest.skip(f"no reference numbers at {folder} (set LUSS_RAY_GOLDEN to their folder)")
    return folder


@pytest.fixture(scope="session")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the reference cases that travel with the project; not to be changed."""
    folder = tmp_path_factory.mktemp("golden")
    with zipfile.ZipFile(Path(__file__).parent / "golden" / "selection.zip") as archive:
        archive.extractall(folder)
    return folder
