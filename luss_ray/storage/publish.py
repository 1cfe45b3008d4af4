"""Makes a dataset of shards that are there: writes its index and, last, its manifest."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luss_ray.core.errors import UserError
from luss_ray.storage.dataset import INDEX, MANIFEST, Manifest, ShardedDataset, data_digest
from luss_ray.storage.uri import Location, json_bytes, parquet_bytes


def publish_index(
    location: Location,
    index: pa.Table,
    *,
    name: str,
    categories: Sequence[str],
    shards: Mapping[str, Mapping[str, Any]],
    made: Mapping[str, Any],
    quarantined: Sequence[Mapping[str, str]] = (),
    base: str = "",
) -> Manifest:
    """Publish a dataset whose shards exist and return its manifest; the same one again changes nothing.

    Args:
        location: folder of index and manifest.
        index: rows of all splits, those of a split together and those of a shard together.
        name: the dataset's name.
        categories: place i is category id i + 1.
        shards: `samples`, `bytes` and `sha256` of each shard.
        made: how it came about.
        quarantined: samples that were left out.
        base: see `Manifest.base`.

    Raises:
        UserError: another dataset is there already.
    """
    data = parquet_bytes(index)
    index_sha256 = hashlib.sha256(data).hexdigest()
    manifest = Manifest(
        name=name,
        categories=tuple(categories),
        splits={split: _counts(index, split, shards) for split in index["split"].unique().to_pylist()},
        shards=shards,
        index_sha256=index_sha256,
        digest=data_digest(index_sha256, shards),
        made=made,
        quarantined=quarantined,
        base=base,
    )
    ours = location.create(INDEX, data) or location.read(INDEX) == data
    if ours:  # else one that was left half-way would get a manifest that isn't its own
        location.create(MANIFEST, json_bytes(manifest.to_json()))
    if not ours or (there := ShardedDataset.open(location).manifest).digest != manifest.digest:
        raise UserError(
            f"{location.uri} holds another dataset: use another folder, or delete its {MANIFEST} and {INDEX}"
        )
    return there


def _counts(index: pa.Table, split: str, shards: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    rows = index.filter(pc.field("split") == split)
    own = rows["shard"].unique().to_pylist()
    return {
        "images": len(rows),
        "masks": int((rows["mask_bytes"].to_numpy() > 0).sum()),
        "shards": len(own),
        "bytes": int(np.sum([shards[shard]["bytes"] for shard in own])),
    }
