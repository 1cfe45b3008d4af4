import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy

from luss_ray.config.recipe import settings
from luss_ray.config.recipes import RECIPES
from luss_ray.core.errors import UserError
from luss_ray.report.inspection import QUANTILES, inspect_clusters
from luss_ray.stages.extract import feature_file
from luss_ray.storage.uri import Location

ANGLES = np.array([0.0, 0.1, 0.2])
"""Of a shard's images from their class's centroid, in turn."""


@pytest.fixture
def run(packed, tmp_path) -> Location:
    """Return a run whose three clusters are the classes, but for one image that is in the next one."""
    split, folder = packed.split("train"), Location.parse(tmp_path / "run")
    corners = np.eye(3, dtype=np.float32)
    for shard in range(len(split.shards)):
        rows = split.shard_rows(shard)
        near = split.class_ids[rows] - 1
        near[rows == 0] = (near[rows == 0] + 1) % 3
        angles = ANGLES[rows % 3][:, None].astype(np.float32)
        features = np.cos(angles) * corners[near] + np.sin(angles) * corners[(near + 1) % 3]
        columns = {
            "key": pa.array([split.key(row) for row in rows]),
            "valid": pa.array(rows != 5),
            "feature": pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), 3),
        }
        (folder / "features").create_table(feature_file(split, shard), pa.table(columns))
    folder.write("clusters/centroids.safetensors", safetensors.numpy.save({"centroids": 2 * corners}))
    found = {"sizes": [8, 9, 6], "nearest": [[0, 1], [2], [3]]}
    folder.write_json("clusters/clusters.json", found)
    folder.write_json("clusters/stage.json", {"inputs": "x", "restart": 1})
    folder.write_json(
        "run.json",
        {"settings": settings(RECIPES["demo"]()), "data": packed.digest, "data_uri": packed.location.uri},
    )
    return folder


def test_margins_and_agreement(run, packed):
    split = packed.split("train")
    found = inspect_clusters(run, split)
    assert found.num_sampled == 23 and len(found.margins) == 3
    possible = np.cos(ANGLES) - np.sin(ANGLES)
    for margins in found.margins:
        assert margins is not None and len(margins) == len(QUANTILES)
        assert possible.min() - 1e-4 <= margins[0] <= margins[-1] <= possible.max() + 1e-4
    assert found.accuracy == pytest.approx(100 * 22 / 23, abs=0.01)
    assert found.margin == pytest.approx(possible[1], abs=1e-4)
    assert found.nmi is not None and 0.7 < found.nmi < 1
    assert found.examples == [[split.key(0), split.key(1)], [split.key(2)], [split.key(3)]]
    assert found.objective == [] and found.coverage == {}
    assert inspect_clusters(run, split, sample=1).num_sampled == 9, "a whole shard, without the unreadable one"


def test_what_later_versions_record_is_there(run, packed):
    clusters = run.read_json("clusters/clusters.json")
    clusters |= {"history": [[9.0, 8.0], [7.0, 6.0], [7.0, 5.0]], "dropped_at": [1, None]}
    run.write_json("clusters/clusters.json", clusters)
    run.write_json("pseudo-labels/stage.json", {"coverage": [100 - level for level in range(101)]})
    found = inspect_clusters(run, packed.split("train"))
    assert found.objective == [[9.0, 8.0], [7.0, 6.0], [None, 5.0]]
    assert found.coverage[0.4] == 60


def test_a_run_without_clusters_is_a_user_error(packed, tmp_path):
    with pytest.raises(UserError, match="has no clusters yet"):
        inspect_clusters(Location.parse(tmp_path), packed.split("train"))


def program(*words: object) -> subprocess.CompletedProcess[str]:
    path = Path(__file__).parents[2] / "jobs" / "inspect_clusters.py"
    environment = {**os.environ, "COLUMNS": "160"}
    command = [sys.executable, str(path), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_program(run, packed, tmp_path):
    done = program(run.uri, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert "23 images looked at: median margin 0.8" in done.stdout and "matched accuracy 95.7 %" in done.stdout
    assert packed.split("train").key(2) in done.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["sizes"] == [8, 9, 6] and written["quantiles"] == list(QUANTILES)
    refused = program(tmp_path / "nothing")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
