from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from luss_ray.clustering.features import FeatureFiles
from luss_ray.core.errors import UserError
from luss_ray.storage.uri import Location


def write(folder: Path, name: str, rows: np.ndarray, column: str = "feature") -> None:
    features = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    keys = pa.array([f"{name}/{number}" for number in range(len(rows))])
    Location.parse(str(folder)).create_table(name, pa.table({"key": keys, column: features}))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("num_rows", [0, 1, 50])
def test_rows_come_back_in_order(tmp_path: Path, dtype: type, num_rows: int) -> None:
    rows = np.random.default_rng(0).normal(size=(num_rows, 6)).astype(dtype)
    write(tmp_path, "a.parquet", rows)
    loaded = FeatureFiles(Location.parse(str(tmp_path)), normalise=False)("a.parquet")
    assert loaded.dtype == np.float32 and loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, rows.astype(np.float32))
    unit = FeatureFiles(Location.parse(str(tmp_path)))("a.parquet")
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)


def test_bad_files_are_user_errors_that_name_them(tmp_path: Path) -> None:
    load = FeatureFiles(Location.parse(str(tmp_path)))
    write(tmp_path, "nan.parquet", np.full((2, 3), np.nan, np.float32))
    write(tmp_path, "other.parquet", np.ones((2, 3), np.float32), column="embedding")
    load.location.create_table("list.parquet", pa.table({"feature": [[1.0, 2.0], [3.0]]}))
    for name, reason in (("nan", "finite"), ("other", "no column 'feature'"), ("list", "fixed-size list")):
        with pytest.raises(UserError, match=rf"{name}\.parquet.*{reason}"):
            load(f"{name}.parquet")
