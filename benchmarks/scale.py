"""A large run without pixels: what plan, cursor, audit, checkpoints and shards cost at ImageNet's size.

`uv run benchmarks/scale.py [--quick] [--json FILE]`

1,281,167 samples x 100 epochs on up to 64 ranks, in simulated time: a step takes 0.3 s, a checkpoint is written every
minute, a failure comes every five minutes on average and takes all work since the last checkpoint with it; after it
the group has 64, 56, 48 or 40 ranks, and now and then the newest checkpoint is torn. Every rank's slice of every
global batch is really planned and accounted for, every checkpoint really written, found and read; at the end the audit
must find each sample exactly once an epoch. Times are real, of one core; what they would mean for a cluster is in
docs/scaling.md.
"""

import argparse
import contextlib
import json
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from rich.table import Table

from luss_ray.core.progress import CONSOLE, StageProgress
from luss_ray.data.audit import Consumption, expected_consumption
from luss_ray.data.plan import Plan
from luss_ray.storage.dataset import INDEX_SCHEMA, ShardedDataset
from luss_ray.storage.labels import LabelShards
from luss_ray.storage.publish import publish_index
from luss_ray.storage.uri import Location
from luss_ray.train.checkpoint import Checkpoint, CheckpointStore

NUM_SAMPLES, PER_SHARD = 1_281_167, 1000
GLOBAL_BATCH, RANKS, WORLDS = 2048, 64, (64, 56, 48, 40)
STEP_S, CHECKPOINT_EVERY_S, FAILURE_EVERY_S, TORN_SHARE = 0.3, 60.0, 300.0, 0.2
RESNET50_PARAMETERS, QUEUE = 25_600_000, (3840, 128)
SETTINGS = "scale"


class Clock:
    """How long each kind of event took."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextlib.contextmanager
    def timing(self, event: str) -> Iterator[None]:
        """Return a context that is timed."""
        started = time.perf_counter()
        yield
        self.seconds[event].append(time.perf_counter() - started)


def memory_mib() -> float:
    """Return the most memory that this process ever had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_index(location: Location) -> None:
    """Publish the index of a dataset of ImageNet's size; there are no shards."""
    rows = np.arange(NUM_SAMPLES)
    names = [f"train/{number:06d}.tar" for number in range(-(-NUM_SAMPLES // PER_SHARD))]
    shards = pa.DictionaryArray.from_arrays((rows // PER_SHARD).astype(np.int32), names).cast(pa.string())
    random = np.random.default_rng(0)
    columns = {
        "split": pa.array(["train"]).take(pa.array(np.zeros(NUM_SAMPLES, np.int32))),
        "shard": shards,
        "key": pa.array([f"n{row % 1000:08d}/n{row % 1000:08d}_{row}" for row in rows.tolist()]),
        "class_id": pa.array((rows % 1000 + 1).astype(np.int32)),
        "height": pa.array(np.full(NUM_SAMPLES, 375, np.int32)),
        "width": pa.array(np.full(NUM_SAMPLES, 500, np.int32)),
        "image_format": pa.array(["jpg"]).take(pa.array(np.zeros(NUM_SAMPLES, np.int32))),
        "image_offset": pa.array(np.cumsum(random.integers(80_000, 140_000, NUM_SAMPLES))),
        "image_bytes": pa.array(random.integers(80_000, 140_000, NUM_SAMPLES)),
        "mask_offset": pa.array(np.zeros(NUM_SAMPLES, np.int64)),
        "mask_bytes": pa.array(np.zeros(NUM_SAMPLES, np.int64)),
    }
    index = pa.table([columns[field.name] for field in INDEX_SCHEMA], schema=INDEX_SCHEMA)
    facts = {name: {"samples": PER_SHARD, "bytes": 110_000_000, "sha256": "0" * 64} for name in names}
    publish_index(location, index, name="scale", categories=[], shards=facts, made={})


def simulate(plan: Plan, folder: Location, clock: Clock) -> dict[str, float]:
    """Run all steps through all failures; return counts of what happened."""
    random = np.random.default_rng(1)
    store = CheckpointStore(folder)
    every, happened = int(CHECKPOINT_EVERY_S / STEP_S), defaultdict[str, float](float)
    step, world, total = 0, RANKS, Consumption()
    fails_at = random.exponential(FAILURE_EVERY_S / STEP_S)
    with StageProgress("steps", plan.num_steps, "steps", images_per_unit=plan.global_batch) as progress:
        while step < plan.num_steps:
            ranks = [Consumption() for _ in range(world)]
            while step < plan.num_steps and step < fails_at:
                take_step(plan, step, ranks, clock)
                step += 1
                if step % every == 0 and step < plan.num_steps:
                    with clock.timing("checkpoint: join 64 ranks, write"):
                        save(store, step, total, ranks)
                    happened["checkpoints"] += 1
                progress.update(step)
            if step == plan.num_steps:
                total = joined(total, ranks)
                break
            happened["failures"] += 1
            if random.random() < TORN_SHARE and (names := folder.list(suffix=".safetensors")):
                folder.write(names[-1], folder.read(names[-1])[:-100])
                happened["torn"] += 1
            with clock.timing("restart: find, read"):
                found = store.newest(SETTINGS)
                total = Consumption.from_dict(store.load(found).consumption) if found else Consumption()
            happened["steps done twice"] += step - (found or 0)
            step, world = found or 0, int(random.choice(WORLDS))
            fails_at = step + random.exponential(FAILURE_EVERY_S / STEP_S)
    with clock.timing("audit of the whole run"):
        audits = total.compare(expected_consumption(plan, plan.num_steps))
    happened["epochs that don't add up"] = sum(bool(audit.finding) for audit in audits)
    happened["samples used"] = sum(audit.used.count for audit in audits)
    return happened


def take_step(plan: Plan, step: int, ranks: list[Consumption], clock: Clock) -> None:
    """Let every rank plan and account for its slice; one of them is timed."""
    timed = step % len(ranks)
    for rank, consumption in enumerate(ranks):
        if rank == timed:
            with clock.timing("a rank's slice: plan"):
                epochs, rows = plan.slice(step, rank, len(ranks))
            with clock.timing("a rank's slice: account"):
                consumption.add(epochs, rows)
        else:
            consumption.add(*plan.slice(step, rank, len(ranks)))


def joined(total: Consumption, ranks: list[Consumption]) -> Consumption:
    """Return what all ranks consumed together, and before."""
    for consumption in ranks:
        total = total + Consumption.from_dict(consumption.to_dict())
    return total


def save(store: CheckpointStore, step: int, total: Consumption, ranks: list[Consumption]) -> None:
    """Write a checkpoint whose tensors are small."""
    consumption = joined(total, ranks).to_dict()
    tensors = {"trainee/queue": torch.zeros(64)}
    store.save(Checkpoint(step=step, settings=SETTINGS, consumption=consumption, tensors=tensors))
    store.wait()


def real_checkpoints(folder: Location, clock: Clock) -> None:
    """Write and read checkpoints as large as those of a ResNet-50."""
    tensors = {f"{part}/all": torch.zeros(RESNET50_PARAMETERS) for part in ("network", "optimiser")}
    tensors["trainee/queue"] = torch.zeros(QUEUE)
    store = CheckpointStore(folder)
    for step in range(3):
        with clock.timing("205 MB checkpoint: training waits"):
            store.save(Checkpoint(step=step, settings=SETTINGS, consumption={}, tensors=tensors))
        with clock.timing("205 MB checkpoint: rest, in the background"):
            store.wait()
        with clock.timing("205 MB checkpoint: find newest"):
            assert store.newest(SETTINGS) == step
        with clock.timing("205 MB checkpoint: read"):
            store.load(step)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 epochs")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    clock, memory = Clock(), {"start": memory_mib()}
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Location.parse(name)
        write_index(folder / "data")
        memory["index written"] = memory_mib()
        with clock.timing("index: open"):
            split = ShardedDataset.open(folder / "data").split("train")
        index_bytes = (folder / "data").size_bytes("index.parquet")
        with clock.timing("plan: open"):
            plan = Plan(split.shard_ids, seed=0, global_batch=GLOBAL_BATCH, epochs=3 if given.quick else 100)
        for epoch in range(3):
            with clock.timing("plan: order of an epoch"):
                plan.order(epoch)
        memory["before the run"] = memory_mib()
        happened = simulate(plan, folder / "checkpoints", clock)
        memory["after the run"] = memory_mib()
        real_checkpoints(folder / "real", clock)
        labels = LabelShards(folder / "labels", split)
        for shard in split.shards:
            labels.location.write(shard.removesuffix(".tar") + ".parquet", b"")
        with clock.timing(f"which of {len(split.shards)} label shards are there"):
            assert len(labels.published()) == len(split.shards)
    table = Table("event", "times", "median ms", "max ms")
    for event, seconds in clock.seconds.items():
        table.add_row(
            event, f"{len(seconds):,}", f"{1000 * statistics.median(seconds):.3f}", f"{1000 * max(seconds):.1f}"
        )
    CONSOLE.print(table)
    CONSOLE.print(", ".join(f"{what}: {number:,.0f}" for what, number in happened.items()))
    CONSOLE.print(f"index of {index_bytes / 1e6:.1f} MB; most memory, MiB: {memory}")
    if happened["epochs that don't add up"]:
        raise SystemExit("samples were lost or doubled")
    if given.json:
        events = {e: {"median": statistics.median(s), "min": min(s), "max": max(s)} for e, s in clock.seconds.items()}
        given.json.write_text(json.dumps({"events_s": events, "happened": happened, "memory_mib": memory}, indent=1))


if __name__ == "__main__":
    main()
