"""A sharded dataset: manifest, index, and members read by range. Nothing here writes; `pack` does."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.storage.members import read_members
from luss_ray.storage.uri import Location

FORMAT = 1
MANIFEST, INDEX = "manifest.json", "index.parquet"
SPLITS = ("train", "train-semi", "validation", "test", "train-full")
"""Names that splits may have; `train-full` is all of ImageNet where `train` is a subset's part of it."""
INDEX_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("class_id", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image_format", pa.string()),
        ("image_offset", pa.int64()),
        ("image_bytes", pa.int64()),
        ("mask_offset", pa.int64()),
        ("mask_bytes", pa.int64()),
    ]
)

Rows = Sequence[int] | Int[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` says of a dataset: written last, so where there is one the dataset is whole."""

    name: str
    """Name of the dataset."""
    categories: tuple[str, ...]
    """Category names; place i is category id i + 1. Empty for unlabelled images."""
    splits: Mapping[str, Mapping[str, int]]
    """Counts `images`, `masks`, `shards`, `bytes` of each split."""
    shards: Mapping[str, Mapping[str, Any]]
    """`samples`, `bytes` and `sha256` of each shard, by its name."""
    index_sha256: str
    """SHA-256 of `index.parquet`, hexadecimal."""
    digest: str
    """SHA-256 over index and shards: it identifies the data."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the packing."""
    quarantined: Sequence[Mapping[str, str]] = ()
    """`file` and `reason` of each source image that was left out."""
    base: str = ""
    """Folder above the dataset's that the shards' names start from: "" = its own, ".." = the one around it, which
    several datasets with the same shards share."""
    format: int = FORMAT
    """Version of this layout."""

    @classmethod
    def from_json(cls, value: Any, uri: str) -> "Manifest":
        """Return the manifest that was read from `uri`; UserError if it is none of ours or from a later version."""
        if not isinstance(value, dict) or "format" not in value:
            raise UserError(f"{uri} is not the manifest of a sharded dataset")
        if value["format"] != FORMAT:
            raise UserError(f"{uri} has format {value['format']}, this version reads {FORMAT}: pack the images again")
        if value.get("base", "") not in ("", ".."):
            raise UserError(
                f"{uri} has shards at {value['base']!r}, which is neither its own folder nor the one around it"
            )
        return cls(**{**value, "categories": tuple(value["categories"])})

    def to_json(self) -> dict[str, Any]:
        """Return it as a dictionary for JSON, `format` first."""
        return {"format": self.format, **asdict(self), "categories": list(self.categories)}


def data_digest(index_sha256: str, shards: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the SHA-256 that identifies a dataset: over its index's digest and those of its shards, by name."""
    parts = [index_sha256, *(f"{name} {shards[name]['sha256']}" for name in sorted(shards))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class ShardedDataset:
    """A dataset that was packed into tar shards, on local disk or in S3. Pickled by its location alone."""

    def __init__(self, location: Location, manifest: Manifest) -> None:
        self.location, self.manifest = location, manifest

    @classmethod
    def open(cls, location: Location) -> "ShardedDataset":
        """Return the dataset at a location.

        Raises:
            UserError: there is none, it is unfinished, or it can't be read.
        """
        try:
            value = location.read_json(MANIFEST)
        except FileNotFoundError:
            raise UserError(f"no dataset at {location.uri} (no {MANIFEST}): build one with shards/build.py") from None
        return cls(location, Manifest.from_json(value, location.child(MANIFEST).uri))

    @property
    def digest(self) -> str:
        """SHA-256 that identifies the data."""
        return self.manifest.digest

    @property
    def categories(self) -> tuple[str, ...]:
        """Category names; place i is category id i + 1."""
        return self.manifest.categories

    @property
    def shards_at(self) -> Location:
        """The location below which the shards lie."""
        return self.location.parent if self.manifest.base else self.location

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have images."""
        return tuple(name for name in SPLITS if self.manifest.splits.get(name, {}).get("images"))

    def split(self, name: str) -> "Split":
        """Return one split with its part of the index.

        Raises:
            UserError: the dataset has no such split, or its index is damaged.
        """
        if name not in self.splits:
            raise UserError(f"{self.location.uri} has no split {name!r}; it has {', '.join(self.splits)}")
        return _split(self.location, self.shards_at, self.digest, self.manifest.index_sha256, name)

    def __reduce__(self) -> tuple:
        return _reopen, (self.location, self.digest)


class Split:
    """The samples of one split in pack order; a *row* is a sample's place in it.

    Columns are arrays with one entry a row. Pickled by name and digest: each process reads the index once.
    """

    def __init__(self, location: Location, shards_at: Location, digest: str, name: str, table: pa.Table) -> None:
        self.location, self.shards_at, self.digest, self.name = location, shards_at, digest, name
        shards = table["shard"].combine_chunks().dictionary_encode()
        self.shards: list[str] = shards.dictionary.to_pylist()
        self.shard_ids: np.ndarray = shards.indices.to_numpy()
        self.keys: pa.Array = table["key"].combine_chunks()
        self.formats: pa.Array = table["image_format"].combine_chunks()
        self.class_ids: np.ndarray = table["class_id"].to_numpy()
        self.heights: np.ndarray = table["height"].to_numpy()
        self.widths: np.ndarray = table["width"].to_numpy()
        self.image_offsets: np.ndarray = table["image_offset"].to_numpy()
        self.image_bytes: np.ndarray = table["image_bytes"].to_numpy()
        self.mask_offsets: np.ndarray = table["mask_offset"].to_numpy()
        self.mask_bytes: np.ndarray = table["mask_bytes"].to_numpy()
        self._versions: dict[str, str] = {}
        assert np.all(np.diff(self.shard_ids) >= 0), "rows are in pack order"

    def __len__(self) -> int:
        return len(self.shard_ids)

    @property
    def has_masks(self) -> bool:
        """Whether any sample has a mask."""
        return bool(self.mask_bytes.any())

    @property
    def shard_sizes(self) -> Int[np.ndarray, " shards"]:
        """Number of samples in each shard."""
        return np.bincount(self.shard_ids, minlength=len(self.shards))

    def shard_rows(self, shard_number: int) -> Int[np.ndarray, " n"]:
        """Return the rows of one shard (its place in `shards`), in the order of its members."""
        start, stop = np.searchsorted(self.shard_ids, [shard_number, shard_number + 1])
        return np.arange(start, stop)

    def key(self, row: int) -> str:
        """Return the key of a sample."""
        return self.keys[int(row)].as_py()

    def shard_uri(self, row: int) -> str:
        """Return the URI of the shard that holds a sample."""
        return self.shards_at.child(self.shards[self.shard_ids[row]]).uri

    def sample_uri(self, row: int) -> str:
        """Return the sample for messages: shard URI#key."""
        return f"{self.shard_uri(row)}#{self.key(row)}"

    def read_images(self, rows: Rows) -> list[bytes]:
        """Return the encoded image of each row.

        Raises:
            BadSampleError: the first one that can't be read, with shard URI and key.
            UserError: the store failed.
        """
        return [_present(item) for item in self.try_read_images(rows)]

    def try_read_images(self, rows: Rows) -> list[bytes | BadSampleError]:
        """Return the encoded image of each row, or the error in its place: for callers that quarantine."""
        items = self._read(rows, self.image_offsets, self.image_bytes)
        return [item if item is not None else self._empty(row) for row, item in zip(rows, items, strict=True)]

    def read_masks(self, rows: Rows) -> list[bytes | None]:
        """Return the encoded mask of each row, None where there is none; errors as `read_images`."""
        items = self._read(rows, self.mask_offsets, self.mask_bytes)
        return [None if item is None else _present(item) for item in items]

    def try_read_masks(self, rows: Rows) -> list[bytes | None]:
        """Return the encoded mask of each row, None where it is missing or unreadable: for callers that quarantine."""
        items = self._read(rows, self.mask_offsets, self.mask_bytes)
        return [item if isinstance(item, bytes) else None for item in items]

    def _read(self, rows: Rows, offsets: np.ndarray, sizes: np.ndarray) -> list[bytes | BadSampleError | None]:
        rows = np.asarray(rows, np.int64)
        return read_members(
            self.shards_at,
            shards=self.shards,
            shard_ids=self.shard_ids[rows],
            offsets=offsets[rows],
            sizes=sizes[rows],
            keys=self.keys.take(pa.array(rows)).to_pylist(),
            versions=self._versions,
        )

    def _empty(self, row: int) -> BadSampleError:
        return BadSampleError("no image data", shard=self.shard_uri(row), key=self.key(row))

    def __reduce__(self) -> tuple:
        return _reopen_split, (self.location, self.digest, self.name)


def _present(item: bytes | BadSampleError) -> bytes:
    if isinstance(item, BadSampleError):
        raise item
    return item


def _reopen(location: Location, digest: str) -> ShardedDataset:
    dataset = ShardedDataset.open(location)
    if dataset.digest != digest:
        raise UserError(f"the dataset at {location.uri} was replaced while in use: start the run again")
    return dataset


@functools.lru_cache(maxsize=8)
def _reopen_split(location: Location, digest: str, name: str) -> Split:
    return _reopen(location, digest).split(name)


@functools.lru_cache(maxsize=8)
def _split(location: Location, shards_at: Location, digest: str, index_sha256: str, name: str) -> Split:
    try:
        data = location.read(INDEX)
    except FileNotFoundError:
        raise UserError(
            f"{location.child(INDEX).uri} is missing, its manifest is there: pack the images again"
        ) from None
    if hashlib.sha256(data).hexdigest() != index_sha256:
        raise UserError(f"{location.child(INDEX).uri} is not the index its manifest speaks of: pack the images again")
    table = pq.read_table(pa.BufferReader(data), schema=INDEX_SCHEMA, filters=pc.field("split") == name)
    return Split(location, shards_at, digest, name, table)
