"""Feature files: one row an image, as the extraction stage publishes them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from luss_ray.clustering.kmeans import normalise_rows
from luss_ray.core.errors import UserError
from luss_ray.storage.store import be_patient
from luss_ray.storage.uri import Location


@dataclass(frozen=True)
class FeatureFiles:
    """A loader of Parquet feature files below one location; calling it with a file's name gives the rows.

    Args:
        location: folder that holds the files.
        column: fixed-size list of float16 or float32.
        normalise: L2-normalise the rows.
    """

    location: Location
    column: str = "feature"
    normalise: bool = True

    def __call__(self, name: str) -> Float32[np.ndarray, "n C"]:
        """Return a file's features in file order, without the rows whose column `valid` is false.

        Args:
            name: relative to the location.

        Raises:
            UserError: no such column, or one that isn't rows of finite numbers.
        """
        be_patient()  # an actor that was restarted reads during an outage too
        table, where = self.location.read_table(name), (self.location / name).uri
        if self.column not in table.column_names:
            raise UserError(f"{where} has no column '{self.column}': delete it and extract features again")
        column = table[self.column].combine_chunks()
        if not pa.types.is_fixed_size_list(column.type) or column.null_count:
            raise UserError(f"{where}: '{self.column}' isn't a fixed-size list without nulls: extract features again")
        rows = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
        rows = np.ascontiguousarray(rows, np.float32)
        if not np.isfinite(rows).all():
            raise UserError(
                f"{where} holds features that aren't finite: check the backbone's weights, then extract again"
            )
        if "valid" in table.column_names:
            rows = rows[table["valid"].to_numpy()]
        return normalise_rows(rows) if self.normalise else rows
