"""Fixtures of the whole suite."""

import os
from pathlib import Path

import pytest

import luss_ray  # noqa: F401  first of all, since it sets what Ray reads on import

pytest_plugins = ["fixtures_ray", "fixtures_run", "fixtures_s3", "fixtures_shards", "fixtures_imagenet"]


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder with the published systems' own numbers, for the tests that compare with them."""
    folder = Path(os.environ.get("LUSS_RAY_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
    if not folder.is_dir():
        pytest.skip(f"no reference numbers at {folder} (set LUSS_RAY_GOLDEN to their folder)")
    return folder
