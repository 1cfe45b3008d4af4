"""Packing a folder of images into a sharded dataset: resumable, exactly once, in memory of a few shards."""

import contextlib
import functools
import hashlib
import io
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.imagenet_s.layout import Source, SourceSplit
from luss_ray.storage.dataset import INDEX, INDEX_SCHEMA, MANIFEST, Manifest, data_digest
from luss_ray.storage.pack_plan import PackSettings, PlannedShard, check_masks, plan_digest, plan_shards
from luss_ray.storage.prepare import Prepared, prepare
from luss_ray.storage.store import be_patient
from luss_ray.storage.tar import write_tar
from luss_ray.storage.uri import Location, json_bytes, parquet_bytes

_PLAN = "packing/plan.json"
_NUM_SHARDS_AT_ONCE = 3


@dataclass(frozen=True)
class ShardResult:
    """Index rows of a published shard; its digest and what was left out are in the table's metadata."""

    name: str
    rows: pa.Table

    @property
    def about(self) -> dict[str, Any]:
        """Counts `samples` and `bytes`, the `sha256`, and what was `quarantined`."""
        return json.loads((self.rows.schema.metadata or {})[b"about"])


Spread = Callable[[Callable[[PlannedShard], ShardResult], Sequence[PlannedShard]], Generator[ShardResult, None, None]]
"""Does the work on each shard, anywhere, and yields the results in the shards' order."""


def pack(
    source: Source,
    out: Location,
    settings: PackSettings,
    *,
    name: str | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
    spread: Spread | None = None,
) -> Manifest:
    """Pack a folder and return the manifest of the dataset.

    Run again after an interruption it goes on with the shards that are missing; several at once share nothing but the
    result: each shard, the index and the manifest are published exactly once. The manifest comes last.

    Args:
        source: what to pack.
        out: where to; a folder that holds nothing yet, the same dataset, or an interrupted packing of it.
        settings: how.
        name: the dataset's name; the folder's name if None.
        on_progress: is told how many samples are done.
        spread: does the shards' work; here, in threads, if None.

    Raises:
        UserError: a mask that does not fit its image, too many bad images, another dataset in the way, a target that
            can't be written.
    """
    shards = plan_shards(source, settings)
    made = {**asdict(settings), "plan": plan_digest(source, settings, shards)}
    if (manifest := _finished(out, made["plan"])) is not None:
        return manifest
    out.check_writable()
    check_masks(source)
    be_patient()
    try:
        _begin(out, made)
        results = _pack_shards(source, out, settings, shards, on_progress=on_progress, spread=spread or in_threads)
        return _finish(source, out, results, made, name or source.name)
    except (FileNotFoundError, UserError):
        if (manifest := _finished(out, made["plan"])) is not None:
            return manifest  # another process has finished the same packing and tidied up under our feet
        raise


def _finished(out: Location, plan: str) -> Manifest | None:
    """Return the manifest if this very packing is finished already; UserError if there is another dataset."""
    try:
        manifest = Manifest.from_json(out.read_json(MANIFEST), out.child(MANIFEST).uri)
    except FileNotFoundError:
        return None
    if manifest.made.get("plan") != plan:
        raise UserError(f"{out.uri} holds a dataset of other images or settings: give another --out, or delete it")
    return manifest


def _begin(out: Location, made: dict[str, Any]) -> None:
    if out.create(_PLAN, json_bytes(made)):
        return
    try:
        begun = out.read_json(_PLAN)
    except FileNotFoundError:
        return  # somebody has finished it meanwhile
    if begun.get("plan") != made["plan"]:
        raise UserError(
            f"{out.uri} holds an unfinished packing of other images or settings: give another --out, or delete it"
        )


def in_threads(
    work: Callable[[PlannedShard], ShardResult], shards: Sequence[PlannedShard]
) -> Generator[ShardResult, None, None]:
    """Do the work in this process, a few shards at a time."""
    pool = ThreadPoolExecutor(_NUM_SHARDS_AT_ONCE)
    try:
        yield from pool.map(work, shards)
    finally:
        pool.shutdown(cancel_futures=True)


def _pack_shards(
    source: Source,
    out: Location,
    settings: PackSettings,
    shards: list[PlannedShard],
    *,
    on_progress: Callable[[int], None],
    spread: Spread,
) -> list[ShardResult]:
    """Return every shard's rows, in order; those that an earlier run published are only loaded."""
    published = set(out.list("packing", suffix=".parquet"))
    todo = [shard for shard in shards if _sidecar(shard.name) not in published]
    packed = spread(functools.partial(_pack_shard, source, out, settings), todo)
    results: list[ShardResult] = []
    budget, done = _Budget(settings.max_bad_samples, source.num_images), 0
    with contextlib.closing(packed):
        for shard in shards:
            there = _sidecar(shard.name) in published
            results.append(ShardResult(shard.name, out.read_table(_sidecar(shard.name))) if there else next(packed))
            budget.spend(results[-1].about["quarantined"])
            done += len(shard.samples)
            on_progress(done)
    return results


def _pack_shard(source: Source, out: Location, settings: PackSettings, shard: PlannedShard) -> ShardResult:
    """Read, check and publish the samples of one shard."""
    be_patient()
    with ThreadPoolExecutor(os.cpu_count()) as readers:
        samples = list(readers.map(functools.partial(_read, source, shard.split, settings), shard.samples))
    return _publish(out, shard, samples)


class _Budget:
    """Bad samples so far, against how many are tolerated."""

    def __init__(self, limit: int | None, num_images: int) -> None:
        self.limit = max(10, num_images // 100) if limit is None else limit
        self.num_bad = 0

    def spend(self, bad: list[dict[str, str]]) -> None:
        self.num_bad += len(bad)
        if bad and self.num_bad > self.limit:
            example = f"{bad[-1]['file']}: {bad[-1]['reason']}"
            raise UserError(
                f"at least {self.num_bad} unusable images, {self.limit} are tolerated (e.g. {example}): "
                "repair the folder or raise --max-bad-samples"
            )


def _read(source: Source, split: SourceSplit, settings: PackSettings, sample: int) -> Prepared | BadSampleError:
    try:
        image = source.files.read(split.images[sample])
        mask = source.mask_files.read(split.masks[sample]) if split.masks[sample] else None
        num_categories, max_side_px = len(source.categories), settings.max_side_px
        return prepare(image, mask, num_categories=num_categories, max_side_px=max_side_px)
    except BadSampleError as error:
        return error
    except OSError as error:
        return BadSampleError((error.strerror or "unreadable").lower())


def _publish(out: Location, shard: PlannedShard, samples: list[Prepared | BadSampleError]) -> ShardResult:
    split = shard.split
    bad = [
        {"file": split.images[i], "reason": sample.reason}
        for i, sample in zip(shard.samples, samples, strict=True)
        if isinstance(sample, BadSampleError)
    ]
    good = [(i, sample) for i, sample in zip(shard.samples, samples, strict=True) if isinstance(sample, Prepared)]
    buffer = io.BytesIO()
    members = write_tar(buffer, (member for i, sample in good for member in _members(split, i, sample)))
    data = buffer.getvalue()
    if good and not out.create(shard.name, data) and out.read(shard.name) != data:
        uri = out.child(shard.name).uri
        raise UserError(f"{uri} is there already and differs (the images changed meanwhile?): delete {out.uri}")
    places = {member.name: member for member in members}
    about = {"samples": len(good), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "quarantined": bad}
    rows = pa.Table.from_pylist([_row(shard, i, sample, places) for i, sample in good], schema=INDEX_SCHEMA)
    rows = rows.replace_schema_metadata({"about": json.dumps(about)})
    out.create_table(_sidecar(shard.name), rows)
    return ShardResult(shard.name, rows)


def _members(split: SourceSplit, i: int, sample: Prepared) -> Iterator[tuple[str, bytes]]:
    yield f"{split.keys[i]}.{sample.suffix}", sample.image
    if sample.mask is not None:
        yield f"{split.keys[i]}.mask.png", sample.mask
    if split.class_ids[i]:
        yield f"{split.keys[i]}.cls", str(split.class_ids[i] - 1).encode()


def _row(shard: PlannedShard, i: int, sample: Prepared, places: dict[str, Any]) -> dict[str, Any]:
    key = shard.split.keys[i]
    image, mask = places[f"{key}.{sample.suffix}"], places.get(f"{key}.mask.png")
    return {
        "split": shard.split.name,
        "shard": shard.name,
        "key": key,
        "class_id": int(shard.split.class_ids[i]),
        "height": sample.height,
        "width": sample.width,
        "image_format": sample.suffix,
        "image_offset": image.offset,
        "image_bytes": image.size_bytes,
        "mask_offset": mask.offset if mask else 0,
        "mask_bytes": mask.size_bytes if mask else 0,
    }


def _finish(source: Source, out: Location, results: list[ShardResult], made: dict[str, Any], name: str) -> Manifest:
    """Publish index and manifest, then remove the traces of the packing."""
    index = pa.concat_tables([result.rows.replace_schema_metadata() for result in results])
    _check_enough(source, index)
    data = parquet_bytes(index)
    if not out.create(INDEX, data):
        data = out.read(INDEX)
    index_sha256 = hashlib.sha256(data).hexdigest()
    about = {result.name: result.about for result in results}
    shards = {
        shard: {key: facts[key] for key in ("samples", "bytes", "sha256")}
        for shard, facts in about.items()
        if facts["samples"]
    }
    manifest = Manifest(
        name=name,
        categories=source.categories,
        splits={split.name: _counts(split.name, index, shards) for split in source.splits},
        shards=shards,
        index_sha256=index_sha256,
        digest=data_digest(index_sha256, shards),
        made=made,
        quarantined=[bad for facts in about.values() for bad in facts["quarantined"]],
    )
    out.create(MANIFEST, json_bytes(manifest.to_json()))
    out.delete_prefix("packing")
    for split in source.splits:
        out.child(split.name).delete_leftovers()
    finished = _finished(out, made["plan"])
    assert finished is not None
    return finished


def _check_enough(source: Source, index: pa.Table) -> None:
    """Raise unless something can be used and, where it must, every category still has an image for training."""
    is_train = np.asarray(index["split"]) == "train"
    if not len(index) or (source.every_category and not is_train.any()):
        raise UserError(f"none of the images of {source.name} can be used")
    present = set(index["class_id"].to_numpy()[is_train].tolist())
    for number, category in enumerate(source.categories if source.every_category else (), 1):
        if number not in present:
            raise UserError(f"none of category {category}'s images of {source.name} can be used")


def _counts(split: str, index: pa.Table, shards: dict[str, dict[str, Any]]) -> dict[str, int]:
    chosen = np.asarray(index["split"]) == split
    own = [facts for shard, facts in shards.items() if shard.startswith(f"{split}/")]
    return {
        "images": int(chosen.sum()),
        "masks": int((index["mask_bytes"].to_numpy()[chosen] > 0).sum()),
        "shards": len(own),
        "bytes": sum(facts["bytes"] for facts in own),
    }


def _sidecar(shard: str) -> str:
    return f"packing/{shard.removesuffix('.tar')}.parquet"
