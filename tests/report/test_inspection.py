import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from luss_ray.config.recipe import settings
from luss_ray.config.recipes import RECIPES
from luss_ray.core.errors import UserError
from luss_ray.report.inspection import inspect_clusters
from luss_ray.stages.cluster import MARGIN_QUANTILES
from luss_ray.storage.uri import Location


@pytest.fixture
def run(packed, tmp_path) -> Location:
    """Return a run with three clusters, one of them without an image; one of two restarts was dropped."""
    folder = Location.parse(tmp_path / "run")
    found = {
        "sizes": [14, 9, 0],
        "nearest": [[0, 1], [2], []],
        "margins": [0.1, 0.2, 0.3, 0.4, 0.5],
        "margins_by_cluster": [[0.2, 0.3, 0.4, 0.5, 0.6], [0.05, 0.1, 0.15, 0.2, 0.25], [None] * 5],
        "history": [[9.0, 8.0], [7.0, 6.0], [7.0, 5.0]],
        "dropped_at": [1, None],
    }
    folder.write_json("clusters/clusters.json", found)
    about = {"inputs": "x", "restart": 1, "nmi": 0.75, "image_accuracy": 95.7}
    folder.write_json("clusters/stage.json", about)
    origin = {"settings": settings(RECIPES["demo"]()), "data": packed.digest, "data_uri": packed.location.uri}
    folder.write_json("run.json", origin)
    return folder


def test_what_the_stages_have_left(run, packed):
    split = packed.split("train")
    found = inspect_clusters(run, split)
    assert found.sizes == [14, 9, 0] and found.margin == 0.3 and found.margins[1][0] == 0.05
    assert (found.nmi, found.accuracy, found.restart) == (0.75, 95.7, 1)
    assert found.examples == [[split.key(0), split.key(1)], [split.key(2)], []]
    assert found.objective == [[9.0, 8.0], [7.0, 6.0], [None, 5.0]] and found.coverage == {}
    run.write_json("pseudo-labels/stage.json", {"coverage": [100 - level for level in range(101)]})
    assert inspect_clusters(run, split).coverage[0.4] == 60


def test_a_run_without_clusters_is_a_user_error(packed, tmp_path):
    with pytest.raises(UserError, match="has no clusters yet"):
        inspect_clusters(Location.parse(tmp_path), packed.split("train"))


def program(*words: object) -> subprocess.CompletedProcess[str]:
    path = Path(__file__).parents[2] / "jobs" / "inspect_clusters.py"
    environment = {**os.environ, "COLUMNS": "160"}
    command = [sys.executable, str(path), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_program(run, packed, tmp_path):
    planned = program(run.uri, "--json", tmp_path / "out.json", "--dry-run")
    assert "clusters of 24 images" in planned.stdout and not (tmp_path / "out.json").exists()
    done = program(run.uri, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert "3 clusters of 23 images: median margin 0.300, NMI 0.750, matched accuracy 95.7 %" in done.stdout
    assert packed.split("train").key(2) in done.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["sizes"] == [14, 9, 0] and written["quantiles"] == list(MARGIN_QUANTILES)
    refused = program(tmp_path / "nothing")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
