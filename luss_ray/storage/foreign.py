"""WebDataset shards that somebody else made, indexed where they lie: afterwards they are a dataset like any other."""

import fnmatch
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.imagenet_s import masks
from luss_ray.storage.dataset import INDEX_SCHEMA, Manifest
from luss_ray.storage.prepare import image_size
from luss_ray.storage.publish import publish_index
from luss_ray.storage.tar import Member, scan_tar
from luss_ray.storage.uri import Location

_IMAGES = ("jpg", "jpeg", "png", "webp")
_MASKS = ("mask.png",)
_NUM_SHARDS_AT_ONCE = 3


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """How shards are indexed."""

    patterns: Mapping[str, str]
    """Which tars make which split: split -> a pattern such as `imagenet-train-*.tar`."""
    categories: tuple[str, ...] = ()
    """Names of the classes that `.cls` members number from 0; empty = by their numbers."""
    max_bad_samples: int | None = None
    """Unreadable samples that are left out at most; None = 1 %, or 10 if that is more."""


@dataclass(frozen=True)
class _Found:
    """What one shard holds."""

    shard: str
    rows: list[dict[str, Any]]
    labels: list[int | str | None]
    """Of each row: the number in its `.cls`, else the folder its key names, else None."""
    about: dict[str, Any]
    bad: list[dict[str, str]]


def index_shards(
    location: Location,
    settings: IndexSettings,
    *,
    name: str,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write index and manifest beside the shards and return the manifest; the tars are read once and stay as they are.

    A sample is what WebDataset takes for one: members that agree up to the first dot of their file name. It needs a
    JPEG, PNG or WebP; `mask.png` is its mask, `cls` its class, else the folder in its key is.

    Args:
        location: the folder of the shards.
        settings: how.
        name: the dataset's name.
        on_shard: is told how many of how many shards are done.

    Raises:
        UserError: no tars, a tar that is none, or too many samples that can't be read.
    """
    shards = _chosen(location, settings.patterns)
    found: list[tuple[str, _Found]] = []
    with ThreadPoolExecutor(_NUM_SHARDS_AT_ONCE) as pool:
        try:
            for split, shard in zip(shards.values(), pool.map(lambda n: _look(location, n), shards), strict=True):
                found.append((split, shard))
                on_shard(len(found), len(shards))
        finally:
            pool.shutdown(cancel_futures=True)
    bad = [sample for _, shard in found for sample in shard.bad]
    _check_budget(bad, sum(len(shard.rows) for _, shard in found), settings.max_bad_samples)
    categories = _number_classes([shard for _, shard in found], settings.categories)
    rows = [{**row, "split": split} for split, shard in found for row in shard.rows]
    return publish_index(
        location,
        pa.Table.from_pylist(rows, schema=INDEX_SCHEMA),
        name=name,
        categories=categories,
        shards={shard.shard: shard.about for _, shard in found if shard.rows},
        made={"indexed": dict(settings.patterns)},
        quarantined=bad,
    )


def _chosen(location: Location, patterns: Mapping[str, str]) -> dict[str, str]:
    """Return the split of each shard, splits together, names sorted."""
    tars = location.list(suffix=".tar")
    chosen: dict[str, str] = {}
    for split, pattern in patterns.items():
        matching = [name for name in tars if fnmatch.fnmatch(name, pattern) and name not in chosen]
        if not matching:
            raise UserError(f"{location.uri} has no tars for {split}: {pattern} matches none of its {len(tars)}")
        chosen |= dict.fromkeys(matching, split)
    return chosen


def _look(location: Location, name: str) -> _Found:
    """Read one shard to its end."""
    uri, data = location.child(name).uri, location.read(name)
    try:
        samples = _samples(scan_tar(io.BytesIO(data)))
    except ValueError as error:
        raise UserError(f"{uri}: {error}") from None
    rows, labels, bad = [], [], []
    for key, members in samples.items():
        try:
            rows.append(_row(name, key, members, data))
            labels.append(_label(key, members, data))
        except BadSampleError as error:
            bad.append({"file": f"{uri}#{key}", "reason": error.reason})
    about = {"samples": len(rows), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return _Found(name, rows, labels, about, bad)


def _samples(members: Sequence[Member]) -> dict[str, dict[str, Member]]:
    """Return the members of each sample by what follows the first dot of their file names; ValueError on doubles."""
    samples: dict[str, dict[str, Member]] = {}
    for member in members:
        folder, slash, file = member.name.rpartition("/")
        stem, _, suffix = file.partition(".")
        sample = samples.setdefault(folder + slash + stem, {})
        if suffix in sample:
            raise ValueError(f"{member.name} is in it twice")
        sample[suffix] = member
    return samples


def _one_of(members: Mapping[str, Member], suffixes: Sequence[str]) -> tuple[str, Member] | None:
    return next(((suffix, member) for suffix, member in members.items() if suffix.lower() in suffixes), None)


def _part(data: bytes, member: Member) -> bytes:
    return data[member.offset : member.offset + member.size_bytes]


def _row(shard: str, key: str, members: Mapping[str, Member], data: bytes) -> dict[str, Any]:
    image, mask = _one_of(members, _IMAGES), _one_of(members, _MASKS)
    if image is None:
        raise BadSampleError(f"no image among its members ({', '.join(members)})")
    height, width = image_size(_part(data, image[1]))
    if mask is not None and masks.decode(_part(data, mask[1])).shape != (height, width):
        raise BadSampleError("its mask has another size")
    return {
        "shard": shard,
        "key": key,
        "class_id": 0,
        "height": height,
        "width": width,
        "image_format": image[0],
        "image_offset": image[1].offset,
        "image_bytes": image[1].size_bytes,
        "mask_offset": mask[1].offset if mask else 0,
        "mask_bytes": mask[1].size_bytes if mask else 0,
    }


def _label(key: str, members: Mapping[str, Member], data: bytes) -> int | str | None:
    if "cls" not in members:
        folder = key.rpartition("/")[0].rpartition("/")[2]
        return folder if folder.strip(".") else None  # `tar cf x.tar .` calls them ./NAME
    text = _part(data, members["cls"]).strip()
    if not text.isdigit():
        raise BadSampleError("its .cls is no number")
    return int(text)


def _number_classes(found: Sequence[_Found], names: tuple[str, ...]) -> tuple[str, ...]:
    """Give every row its class id; return the categories' names."""
    labels = [label for shard in found for label in shard.labels]
    numbers = [label for label in labels if isinstance(label, int)]
    folders = sorted({label for label in labels if isinstance(label, str)})
    if numbers:
        if names and max(numbers) >= len(names):
            raise UserError(f"a .cls member says {max(numbers)}, but there are {len(names)} names of categories")
        categories = names or tuple(str(number) for number in range(max(numbers) + 1))
        ids: dict[int | str | None, int] = {number: number + 1 for number in range(len(categories))}
    else:
        categories = tuple(folders)
        ids = {folder: number for number, folder in enumerate(folders, 1)}
    for shard in found:
        for row, label in zip(shard.rows, shard.labels, strict=True):
            row["class_id"] = ids.get(label, 0)
    return categories


def _check_budget(bad: Sequence[Mapping[str, str]], num_good: int, limit: int | None) -> None:
    allowed = max(10, num_good // 100) if limit is None else limit
    if not num_good or len(bad) > allowed:
        example = f" (e.g. {bad[0]['file']}: {bad[0]['reason']})" if bad else ""
        raise UserError(f"{len(bad)} samples can't be used, {num_good} can, {allowed} are tolerated{example}")
