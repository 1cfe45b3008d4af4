"""Feature files: one row an image, as the extraction stage publishes them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float32

from luss_ray.clustering.kmeans import normalise_rows
from luss_ray.core.errors import UserError
from luss_ray.storage.store import be_patient
from luss_ray.storage.uri import Location

_INPUTS, _CONTENT = b"inputs", b"sha256"
_AGAIN = "delete it and the stage.json of its stage, and start the job again: it extracts what is missing"


def feature_table(
    keys: Sequence[str],
    features: Float[np.ndarray, "n C"],
    valid: Bool[np.ndarray, " n"],
    *,
    inputs: str,
    metadata: dict[bytes, bytes],
) -> pa.Table:
    """Return the table of a feature file: columns `key`, `valid` and `feature`.

    Args:
        keys: of the shard's samples, in its order.
        features: of each, float16 or float32; what it says of samples that aren't valid means nothing.
        valid: whether the sample could be read.
        inputs: digest of everything the features follow from.
        metadata: what else the file should carry.
    """
    column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    table = pa.table({"key": pa.array(keys, pa.string()), "valid": pa.array(valid), "feature": column})
    identity = {_INPUTS: inputs.encode(), _CONTENT: _digest(features, valid)}
    return table.replace_schema_metadata(metadata | identity)


def _digest(features: Float[np.ndarray, "n C"], valid: Bool[np.ndarray, " n"]) -> bytes:
    content = hashlib.sha256(np.ascontiguousarray(features).data)
    content.update(np.packbits(valid).data)
    return content.hexdigest().encode()


@dataclass(frozen=True)
class FeatureFiles:
    """A loader of feature files below one location; calling it with a file's name gives the rows.

    Args:
        location: folder that holds the files.
        inputs: digest of everything the features should follow from; None takes whatever lies there.
    """

    location: Location
    inputs: str | None = None

    def index(self, name: str) -> pa.Table:
        """Return a file's columns `key` and `valid` and its metadata, without the features.

        Args:
            name: relative to the location.

        Raises:
            UserError: the file is missing, damaged, or of other features.
        """
        where = (self.location / name).uri
        try:
            table = self.location.read_columns(name, ("key", "valid"))
        except FileNotFoundError:
            raise UserError(f"{where} is missing: {_AGAIN}") from None
        self._check_inputs(where, table)
        return table

    def _check_inputs(self, where: str, table: pa.Table) -> None:
        if self.inputs is not None and (table.schema.metadata or {}).get(_INPUTS) != self.inputs.encode():
            raise UserError(f"{where} holds features of other weights, data or settings: {_AGAIN}")

    def __call__(self, name: str) -> Float32[np.ndarray, "n C"]:
        """Return a file's features in file order, of length 1, without the samples that aren't valid.

        Args:
            name: relative to the location.

        Raises:
            UserError: the file is missing, damaged, of other features, or holds no finite numbers.
        """
        rows, valid = self.read(name)
        return rows[valid] if not valid.all() else rows

    def read(self, name: str) -> tuple[Float32[np.ndarray, "n C"], Bool[np.ndarray, " n"]]:
        """Return the features of all samples, of length 1, and which of them are valid; errors as above."""
        be_patient()  # an actor that was restarted reads during an outage too
        where = (self.location / name).uri
        try:
            table = self.location.read_table(name)
        except FileNotFoundError:
            raise UserError(f"{where} is missing: {_AGAIN}") from None
        if not {"feature", "valid"} <= set(table.column_names):
            raise UserError(f"{where} is no feature file: {_AGAIN}")
        column, valid = table["feature"].combine_chunks(), table["valid"].to_numpy()
        if not pa.types.is_fixed_size_list(column.type) or column.null_count:
            raise UserError(f"{where}: 'feature' isn't a fixed-size list without nulls: {_AGAIN}")
        rows = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
        self._check_inputs(where, table)
        metadata = table.schema.metadata or {}
        if metadata.get(_CONTENT) != _digest(rows, valid):
            raise UserError(f"{where} was changed after it was written: {_AGAIN}")
        rows = np.ascontiguousarray(rows, np.float32)
        if not np.isfinite(rows[valid]).all():
            raise UserError(
                f"{where} holds features that aren't finite: look at the weights they come from, then {_AGAIN}"
            )
        return normalise_rows(rows), valid
