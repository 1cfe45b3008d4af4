"""Whether a dataset, or its labels, are what the index says: digests, counts, offsets, and every member decodes."""

import hashlib
import io
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from luss_ray.core.errors import BadSampleError
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.soft_label import SoftLabel
from luss_ray.storage.dataset import ShardedDataset, Split, data_digest
from luss_ray.storage.labels import LabelShards, sidecar_name
from luss_ray.storage.prepare import prepare
from luss_ray.storage.tar import scan_tar
from luss_ray.storage.uri import Location

_NUM_SHARDS_AT_ONCE = 2


@dataclass(frozen=True)
class Problem:
    """Something that is broken."""

    uri: str
    """Shard, index or manifest."""
    key: str
    """Sample, or empty text where it concerns the whole object."""
    reason: str
    """What is wrong."""

    def __str__(self) -> str:
        return f"{self.uri}{'#' if self.key else ''}{self.key}: {self.reason}"


def verify(dataset: ShardedDataset) -> Iterator[tuple[int, list[Problem]]]:
    """Return, shard by shard, how many samples were looked at and what is wrong with them.

    The first item is about the manifest. Reads everything once, in memory of a few shards.
    """
    yield 0, _check_manifest(dataset)
    for name in dataset.splits:
        split = dataset.split(name)
        with ThreadPoolExecutor(_NUM_SHARDS_AT_ONCE) as threads:
            numbers = range(len(split.shards))
            yield from threads.map(lambda number, split=split: _check_shard(dataset, split, number), numbers)


def _check_manifest(dataset: ShardedDataset) -> list[Problem]:
    manifest, uri = dataset.manifest, dataset.location.child("manifest.json").uri
    problems: list[Problem] = []
    seen: set[str] = set()
    if data_digest(manifest.index_sha256, manifest.shards) != manifest.digest:
        problems.append(Problem(uri, "", "the digest does not belong to the shards it lists"))
    for name, counts in manifest.splits.items():
        split = dataset.split(name) if name in dataset.splits else None
        found = {
            "images": len(split) if split else 0,
            "masks": int((split.mask_bytes > 0).sum()) if split else 0,
            "shards": len(split.shards) if split else 0,
        }
        wrong = [f"{what} {counts[what]} (index: {number})" for what, number in found.items() if counts[what] != number]
        if wrong:
            problems.append(Problem(uri, "", f"split {name} counts {', '.join(wrong)}"))
        seen.update(split.shards if split else [])
    unused = sorted(set(manifest.shards) - seen)
    problems += [Problem(uri, "", f"it lists a shard that no split has: {name}") for name in unused]
    return problems


def _check_shard(dataset: ShardedDataset, split: Split, number: int) -> tuple[int, list[Problem]]:
    name, rows = split.shards[number], split.shard_rows(number)
    uri = dataset.shards_at.child(name).uri
    facts = dataset.manifest.shards.get(name)
    if facts is None:
        return len(rows), [Problem(uri, "", "the manifest does not know it")]
    try:
        data = dataset.shards_at.read(name)
    except FileNotFoundError:
        return len(rows), [Problem(uri, "", "it is missing")]
    problems = []
    if len(data) != facts["bytes"]:
        problems.append(Problem(uri, "", f"it has {len(data)} bytes, not {facts['bytes']}"))
    elif hashlib.sha256(data).hexdigest() != facts["sha256"]:
        problems.append(Problem(uri, "", "its SHA-256 is not the one in the manifest"))
    if facts["samples"] != len(rows):
        problems.append(Problem(uri, "", f"the manifest counts {facts['samples']} samples, the index {len(rows)}"))
    problems += _check_offsets(dataset.shards_at, split, name, rows, data)
    num_categories = len(dataset.categories)
    for row in rows:
        reason = _check_sample(split, int(row), data, num_categories)
        if reason:
            problems.append(Problem(uri, split.key(row), reason))
    return len(rows), problems


def _check_offsets(location: Location, split: Split, name: str, rows: np.ndarray, data: bytes) -> list[Problem]:
    """Return the samples whose members are elsewhere in the tar than the index says."""
    uri = location.child(name).uri
    try:
        places = {member.name: (member.offset, member.size_bytes) for member in scan_tar(io.BytesIO(data))}
    except ValueError as error:
        return [Problem(uri, "", str(error))]
    problems = []
    for row in rows:
        key = split.key(row)
        expected = {f"{key}.{split.formats[int(row)].as_py()}": (split.image_offsets[row], split.image_bytes[row])}
        if split.mask_bytes[row]:
            expected[f"{key}.mask.png"] = (split.mask_offsets[row], split.mask_bytes[row])
        if any(places.get(member) != place for member, place in expected.items()):
            problems.append(Problem(uri, key, "its members are not where the index says"))
    return problems


def _check_sample(split: Split, row: int, data: bytes, num_categories: int) -> str:
    image = data[split.image_offsets[row] : split.image_offsets[row] + split.image_bytes[row]]
    mask = data[split.mask_offsets[row] : split.mask_offsets[row] + split.mask_bytes[row]] or None
    try:
        found = prepare(image, None, num_categories=num_categories, max_side_px=None)
        size = (int(split.heights[row]), int(split.widths[row]))
        if (found.height, found.width) != size:
            return f"it has {found.width} x {found.height} pixels, the index says {size[1]} x {size[0]}"
        if mask is not None and masks.decode(mask).shape != size:
            return "its mask has another size"
    except BadSampleError as error:
        return error.reason
    return ""


def verify_labels(
    labels: LabelShards, num_clusters: int, *, unlabelled: Collection[str] = ()
) -> Iterator[tuple[int, list[Problem]]]:
    """Return, label shard by label shard, how many samples were looked at and what is wrong with their soft labels.

    Args:
        labels: the shards, each of which has the keys of an image shard in its order.
        num_clusters: ids are 1 .. num_clusters.
        unlabelled: keys of the samples that have no label, since their image is unreadable.
    """
    with ThreadPoolExecutor(_NUM_SHARDS_AT_ONCE) as threads:
        numbers = range(len(labels.split.shards))
        yield from threads.map(lambda number: _check_labels(labels, number, num_clusters, unlabelled), numbers)


def _check_labels(
    labels: LabelShards, number: int, num_clusters: int, unlabelled: Collection[str]
) -> tuple[int, list[Problem]]:
    name, rows = labels.split.shards[number], labels.split.shard_rows(number)
    keys, uri = [labels.split.key(row) for row in rows], labels.location.child(name).uri
    try:
        data, index = labels.location.read(name), labels.location.read_table(sidecar_name(name))
        members = scan_tar(io.BytesIO(data))
    except FileNotFoundError:
        return len(rows), [Problem(uri, "", "it is missing, or its index is")]
    except ValueError as error:
        return len(rows), [Problem(uri, "", str(error))]
    problems = []
    if hashlib.sha256(data).hexdigest() != (index.schema.metadata or {}).get(b"sha256", b"").decode():
        problems.append(Problem(uri, "", "its SHA-256 is not the one in its index"))
    if index["key"].to_pylist() != keys:
        return len(rows), [*problems, Problem(uri, "", "its index has not the image shard's keys in their order")]
    places = list(zip(keys, index["offset"].to_pylist(), index["bytes"].to_pylist(), strict=True))
    if members != [(f"{key}.{labels.suffix}", offset, size) for key, offset, size in places if size]:
        problems.append(Problem(uri, "", "its members are not those of its index in their order"))
    reasons = [
        _check_label(data[offset : offset + size], num_clusters) if size else _check_missing(labels, row, unlabelled)
        for row, (_, offset, size) in zip(rows.tolist(), places, strict=True)
    ]
    problems += [Problem(uri, key, reason) for key, reason in zip(keys, reasons, strict=True) if reason]
    return len(rows), problems


def _check_missing(labels: LabelShards, row: int, unlabelled: Collection[str]) -> str:
    if labels.split.key(row) not in unlabelled:
        return "no label"
    try:
        prepare(labels.split.read_images([row])[0], None, num_categories=0, max_side_px=None)
    except BadSampleError:
        return ""
    return "no label, though its image can be read"


def _check_label(data: bytes, num_clusters: int) -> str:
    try:
        ids = SoftLabel.decode(data).labels
    except BadSampleError as error:
        return error.reason
    if ids.min() < 1 or ids.max() > num_clusters:
        return f"its clusters are {ids.min()} to {ids.max()}, there are 1 to {num_clusters}"
    return ""
