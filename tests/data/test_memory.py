"""A loader's memory doesn't grow with the dataset: an epoch of 100,000 images beside one of 1,000."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from luss_ray.storage.dataset import INDEX, INDEX_SCHEMA, MANIFEST, Manifest, ShardedDataset, data_digest
from luss_ray.storage.uri import Location, json_bytes, parquet_bytes

_EPOCH = """
import resource, sys
import numpy as np
from luss_ray.data.audit import Consumption, expected_consumption
from luss_ray.data.stream import Loader, StreamSpec
from luss_ray.storage.uri import Location

class Sizes:
    num_uniforms = 3
    def __call__(self, image, label, draws):
        return {"bytes": np.array(len(image))}

spec = StreamSpec(data=Location.parse(sys.argv[1]), split="train", labels=None, seed=0, global_batch=48, epochs=1,
                  transform=Sizes())
loader, used = Loader(spec=spec, rank=0, world=1, start_step=0, num_threads=1), Consumption()
num_steps = spec.open_plan().num_steps
for first in range(0, num_steps, 7):
    for batch in loader.load(np.arange(first, min(first + 7, num_steps))):
        used.add(batch["epoch"], batch["row"], batch["used_row"])
assert not any(epoch.finding for epoch in used.compare(expected_consumption(loader.plan, num_steps)))
print(used.epochs[0].count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def grown(packed: ShardedDataset, out: Path, times: int) -> Path:
    """Write a dataset that has every shard of another one many times, under other names."""
    rows = pq.read_table(pa.BufferReader(packed.location.read(INDEX)), schema=INDEX_SCHEMA)
    rows = rows.filter(pa.compute.field("split") == "train")
    shards, tables = {}, []
    for copy in range(times):
        for name in packed.split("train").shards:
            new = f"train/{copy:05d}-{Path(name).name}"
            (out / "train").mkdir(parents=True, exist_ok=True)
            (out / new).hardlink_to(packed.location.child(name).local_path)
            shards[new] = packed.manifest.shards[name]
            own = rows.filter(pa.compute.field("shard") == name)
            tables.append(own.set_column(1, "shard", pa.array([new] * len(own), pa.string())))
    index = parquet_bytes(pa.concat_tables(tables))
    index_sha256 = hashlib.sha256(index).hexdigest()
    counts = {"images": len(rows) * times, "masks": 0, "shards": len(shards), "bytes": 0}
    manifest = Manifest(
        name="grown",
        categories=packed.categories,
        splits={"train": counts},
        shards=shards,
        index_sha256=index_sha256,
        digest=data_digest(index_sha256, shards),
    )
    location = Location.parse(out)
    location.write(INDEX, index)
    location.write(MANIFEST, json_bytes(manifest.to_json()))
    return out


def peak_kib(dataset: Path, num_images: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _EPOCH, str(dataset)], capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    num_used, peak = map(int, done.stdout.split())
    assert num_used == num_images
    return peak


def test_an_epoch_of_100_000_images_takes_no_more_memory_than_one_of_1_000(
    packed: ShardedDataset, tmp_path: Path
) -> None:
    few = peak_kib(grown(packed, tmp_path / "few", 42), 24 * 42)
    many = peak_kib(grown(packed, tmp_path / "many", 4200), 24 * 4200)
    assert many < 1.15 * few
