from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.metrics
from jaxtyping import Float

from luss_ray.clustering.assign import Clusters, assign_file
from luss_ray.clustering.features import FeatureFiles, feature_table
from luss_ray.core.errors import UserError
from luss_ray.storage.uri import Location


def write(folder: Path, name: str, rows: Float[np.ndarray, "n C"], valid: np.ndarray | None = None) -> None:
    keys = [f"{name}/{number}" for number in range(len(rows))]
    valid = np.ones(len(rows), bool) if valid is None else valid
    table = feature_table(keys, rows, valid, inputs="these weights", metadata={b"more": b"things"})
    Location.parse(folder).create_table(name, table)


def loader(folder: Path) -> FeatureFiles:
    return FeatureFiles(Location.parse(folder), "these weights")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("num_rows", [0, 1, 50])
def test_rows_come_back_in_order(tmp_path: Path, dtype: type, num_rows: int) -> None:
    rows = np.random.default_rng(0).normal(size=(num_rows, 6)).astype(dtype)
    valid = np.arange(num_rows) % 7 != 3
    write(tmp_path, "a.parquet", rows, valid)
    loaded = loader(tmp_path)("a.parquet")
    assert loaded.dtype == np.float32 and loaded.flags.c_contiguous
    wide = rows[valid].astype(np.float64)
    np.testing.assert_allclose(loaded, wide / np.linalg.norm(wide, axis=1, keepdims=True), rtol=1e-6)
    table = loader(tmp_path).location.read_table("a.parquet")
    assert table["key"].to_pylist() == [f"a.parquet/{number}" for number in range(num_rows)]
    assert table.schema.metadata[b"more"] == b"things"
    index = loader(tmp_path).index("a.parquet")
    assert index.column_names == ["key", "valid"] and index.schema.metadata[b"more"] == b"things"
    assert index["valid"].to_pylist() == valid.tolist()


def test_bad_files_are_user_errors_that_name_them(tmp_path: Path) -> None:
    load, rows = loader(tmp_path), np.ones((2, 3), np.float32)
    write(tmp_path, "nan.parquet", np.full((2, 3), np.nan, np.float32))
    load.location.create_table("keys.parquet", pa.table({"key": ["a"]}))
    load.location.create_table("list.parquet", pa.table({"valid": [True, True], "feature": [[1.0, 2.0], [3.0]]}))
    write(tmp_path, "changed.parquet", rows)
    table = load.location.read_table("changed.parquet")
    other = pa.FixedSizeListArray.from_arrays(pa.array(2 * rows.ravel()), 3)
    pq.write_table(table.set_column(2, "feature", other), tmp_path / "changed.parquet")
    write(tmp_path, "torn.parquet", rows)
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(torn.read_bytes()[:100])
    reasons = {
        "nan": "aren't finite",
        "keys": "no feature file",
        "list": "fixed-size list",
        "changed": "was changed after it was written",
        "torn": "not a readable Parquet file",
        "gone": "is missing",
    }
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=rf"{name}\.parquet.*{reason}"):
            load(f"{name}.parquet")
    write(tmp_path, "other.parquet", rows)
    other_files = FeatureFiles(load.location, "those weights")
    for read in (other_files, other_files.index):
        with pytest.raises(UserError, match=r"other\.parquet holds features of other weights"):
            read("other.parquet")
    for name in ("torn", "gone"):
        with pytest.raises(UserError, match=rf"{name}\.parquet.*{reasons[name]}"):
            load.index(f"{name}.parquet")
    assert FeatureFiles(load.location)("other.parquet").shape == (2, 3)


def test_images_fall_to_the_centroid_of_largest_cosine(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, centroids = rng.normal(size=(60, 6)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    valid = np.arange(60) != 3
    write(tmp_path, "a.parquet", rows, valid)
    part = assign_file(loader(tmp_path), "a.parquet", Clusters.of(centroids))
    cosines = sklearn.metrics.pairwise.cosine_similarity(rows, centroids)
    expected = cosines.argmax(axis=1)
    np.testing.assert_array_equal(part.clusters[valid], expected[valid])
    assert part.clusters[3] == -1 and np.isnan(part.margins[3])
    np.testing.assert_array_equal(part.sizes, np.bincount(expected[valid], minlength=5))
    ahead = np.sort(cosines, axis=1)
    np.testing.assert_allclose(part.margins[valid], (ahead[:, -1] - ahead[:, -2])[valid], atol=1e-6)
    for number, nearest in enumerate(part.nearest):
        members = np.flatnonzero((expected == number) & valid)
        best = members[np.argsort(-cosines[members, number])][:8]
        assert [place for _, place in nearest] == best.tolist()


def test_images_fall_to_the_cluster_of_their_centroid(tmp_path: Path) -> None:
    """Seven centroids of three clusters; how far ahead a cluster is says nothing of its own other centroids."""
    rng = np.random.default_rng(0)
    rows, centroids = rng.normal(size=(60, 6)).astype(np.float32), rng.normal(size=(7, 6)).astype(np.float32)
    write(tmp_path, "a.parquet", rows)
    numbers = np.array([0, 1, 1, 2, 0, 1, 1])
    part = assign_file(loader(tmp_path), "a.parquet", Clusters(centroids, numbers))
    cosines = sklearn.metrics.pairwise.cosine_similarity(rows, centroids)
    best = np.stack([cosines[:, numbers == number].max(axis=1) for number in range(3)], axis=1)
    np.testing.assert_array_equal(part.clusters, best.argmax(axis=1))
    ahead = np.sort(best, axis=1)
    np.testing.assert_allclose(part.margins, ahead[:, -1] - ahead[:, -2], atol=1e-6)
    assert len(part.sizes) == len(part.nearest) == 3
