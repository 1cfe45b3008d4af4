"""Datasets made of other datasets' shards: the same tars under another index, with other splits and category ids."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from luss_ray.storage.dataset import INDEX, INDEX_SCHEMA, Manifest, ShardedDataset
from luss_ray.storage.publish import publish_index
from luss_ray.storage.uri import Location


@dataclass(frozen=True, kw_only=True)
class ViewPart:
    """What a view takes from a dataset that lies beside it or below the folder around it."""

    dataset: Location
    """A packed dataset below the folder that the view is in."""
    split: str
    """Its split; all of it is taken."""
    becomes: str
    """The view's split."""
    category_id: Callable[[str], int] | None = None
    """The view's category id of a sample by its key; None keeps the ids."""


def write_view(
    location: Location, *, name: str, categories: Sequence[str], parts: Sequence[ViewPart], made: dict[str, Any]
) -> Manifest:
    """Publish a view and return its manifest; the same view again changes nothing.

    Args:
        location: folder of the view; shards are named from the folder around it.
        name: name of the dataset.
        categories: place i is category id i + 1.
        parts: what it takes, a split's parts in their order.
        made: how the datasets were made.

    Raises:
        UserError: another dataset is there already, or a part is missing.
    """
    tables, shards, quarantined = [], {}, []
    for part in parts:
        source = ShardedDataset.open(part.dataset)
        prefix = _below(part.dataset, location.parent)
        tables.append(_rows(source, part, prefix))
        own = set(source.split(part.split).shards)
        shards |= {f"{prefix}/{shard}": facts for shard, facts in source.manifest.shards.items() if shard in own}
        quarantined += [bad for bad in source.manifest.quarantined if bad not in quarantined]
    index = pa.concat_tables(sorted(tables, key=lambda table: table["split"][0].as_py()))
    return publish_index(
        location, index, name=name, categories=categories, shards=shards, made=made, quarantined=quarantined, base=".."
    )


def _rows(source: ShardedDataset, part: ViewPart, prefix: str) -> pa.Table:
    table = pq.read_table(pa.BufferReader(source.location.read(INDEX)), schema=INDEX_SCHEMA)
    table = table.filter(pc.field("split") == part.split)
    columns = {name: table[name] for name in INDEX_SCHEMA.names}
    columns["split"] = pa.array([part.becomes] * len(table), pa.string())
    columns["shard"] = pa.array([f"{prefix}/{shard}" for shard in table["shard"].to_pylist()], pa.string())
    if part.category_id is not None:
        columns["class_id"] = pa.array([part.category_id(key) for key in table["key"].to_pylist()], pa.int32())
    return pa.table(columns, schema=INDEX_SCHEMA)


def _below(location: Location, folder: Location) -> str:
    """Return the path of a location from a folder that it is in."""
    inside = location.path.removeprefix(folder.path).lstrip("/")
    assert location.bucket == folder.bucket and location.path == folder.child(inside).path, "a part lies elsewhere"
    return inside
