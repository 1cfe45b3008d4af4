"""Label shards: one label an image in tars parallel to a split's shards, with the same keys in the same order."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.storage.dataset import Rows, Split
from luss_ray.storage.members import read_members
from luss_ray.storage.tar import scan_tar, write_tar
from luss_ray.storage.uri import Location


class LabelShards:
    """Labels of one split's samples below a folder: `<shard>.tar` and its sidecar index `<shard>.parquet`.

    A shard is published when its sidecar is there, which is created last. Of racing writers one wins; a writer that
    died between tar and sidecar is completed by the next one from the tar that is there.

    Args:
        location: folder of the label shards, e.g. `RUN/pseudo_labels`.
        split: the split that they label.
        suffix: what is added to a sample's key to name its member.
    """

    def __init__(self, location: Location, split: Split, suffix: str = "label.png") -> None:
        self.location, self.split, self.suffix = location, split, suffix
        self._sidecars: dict[str, _Sidecar] = {}
        self._versions: dict[str, str] = {}

    def publish(self, shard_number: int, labels: Sequence[bytes | None]) -> bool:
        """Publish the labels of one shard, exactly once.

        Args:
            shard_number: place of the shard in `split.shards`.
            labels: encoded label map of each of its samples, in order; None where there is none.

        Returns:
            True for the one call that published the shard; False if it was published already (that one stays).

        Raises:
            UserError: the store refused, or another tar with other keys is in the way.
        """
        name, keys = self.split.shards[shard_number], self._keys(shard_number)
        assert len(labels) == len(keys), f"{len(labels)} labels for {len(keys)} samples of {name}"
        buffer = io.BytesIO()
        pairs = zip(keys, labels, strict=True)
        write_tar(buffer, ((f"{key}.{self.suffix}", label) for key, label in pairs if label is not None))
        data = buffer.getvalue()
        created = self.location.create(name, data)
        sidecar = self._sidecar_of(name, keys, data if created else self.location.read(name))
        return self.location.create_table(sidecar_name(name), sidecar)

    def published(self) -> list[int]:
        """Return the numbers of the shards that are published, in order."""
        folders = {name.rpartition("/")[0] for name in self.split.shards}
        there = {name for folder in folders for name in self.location.list(folder, suffix=".parquet")}
        return [number for number, name in enumerate(self.split.shards) if sidecar_name(name) in there]

    @property
    def is_complete(self) -> bool:
        """Whether every shard is published."""
        return len(self.published()) == len(self.split.shards)

    def size_bytes(self, shard_number: int) -> int:
        """Return what a shard and its index take; FileNotFoundError unless it is published."""
        name = self.split.shards[shard_number]
        return self.location.size_bytes(name) + self.location.size_bytes(sidecar_name(name))

    def digest(self) -> str:
        """Return the SHA-256 that identifies the labels of all shards; FileNotFoundError unless they are complete."""
        digests = [self._load(name).digest for name in self.split.shards]
        return hashlib.sha256("\n".join([self.split.digest, *digests]).encode()).hexdigest()

    def unlabelled(self, shard_numbers: Iterable[int]) -> list[str]:
        """Return shard URI#key of each sample of some published shards that has no label."""
        return [
            self.split.sample_uri(row)
            for number in shard_numbers
            for row, size in zip(
                self.split.shard_rows(number).tolist(), self._load(self.split.shards[number]).sizes, strict=True
            )
            if size == 0
        ]

    def read(self, rows: Rows) -> list[bytes | None]:
        """Return the encoded label map of each row of the split, None where there is none.

        Raises:
            FileNotFoundError: a shard that is not published.
            BadSampleError: a label that can't be read, with shard URI and key.
        """
        rows = np.asarray(rows, np.int64)
        shard_ids = self.split.shard_ids[rows]
        offsets, sizes = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        for shard_id in np.unique(shard_ids):
            sidecar, chosen = self._load(self.split.shards[shard_id]), shard_ids == shard_id
            places = rows[chosen] - self.split.shard_rows(shard_id)[0]
            offsets[chosen], sizes[chosen] = sidecar.offsets[places], sidecar.sizes[places]
        keys = self.split.keys.take(pa.array(rows)).to_pylist()
        shards = self.split.shards
        items = read_members(
            self.location,
            shards=shards,
            shard_ids=shard_ids,
            offsets=offsets,
            sizes=sizes,
            keys=keys,
            versions=self._versions,
        )
        for item in items:
            if isinstance(item, BadSampleError):
                raise item
        return [item for item in items if not isinstance(item, BadSampleError)]

    def _load(self, name: str) -> "_Sidecar":
        if name not in self._sidecars:
            table = self.location.read_table(sidecar_name(name))
            digest = (table.schema.metadata or {}).get(b"sha256", b"").decode()
            self._sidecars[name] = _Sidecar(table["offset"].to_numpy(), table["bytes"].to_numpy(), digest)
        return self._sidecars[name]

    def __reduce__(self) -> tuple:
        return LabelShards, (self.location, self.split, self.suffix)

    def _keys(self, shard_number: int) -> list[str]:
        rows = self.split.shard_rows(shard_number)
        return self.split.keys[rows[0] : rows[-1] + 1].to_pylist()

    def _sidecar_of(self, name: str, keys: Sequence[str], data: bytes) -> pa.Table:
        """Return the sidecar of a tar as it is, which need not be the one we would have written."""
        uri = self.location.child(name).uri
        try:
            members = {member.name.removesuffix(f".{self.suffix}"): member for member in scan_tar(io.BytesIO(data))}
        except ValueError as error:
            raise UserError(f"{uri} is {error}: delete it and run again") from None
        if not members.keys() <= set(keys):
            raise UserError(f"{uri} has labels of other samples than {self.split.location.uri}: delete that folder")
        places = [members.get(key) for key in keys]
        columns = {
            "key": pa.array(keys, pa.string()),
            "offset": pa.array([place.offset if place else 0 for place in places], pa.int64()),
            "bytes": pa.array([place.size_bytes if place else 0 for place in places], pa.int64()),
        }
        return pa.table(columns, metadata={"sha256": hashlib.sha256(data).hexdigest()})


@dataclass(frozen=True)
class _Sidecar:
    offsets: np.ndarray
    sizes: np.ndarray
    digest: str


def sidecar_name(shard: str) -> str:
    """Return the name of a label shard's index: columns `key`, `offset`, `bytes`, and its `sha256` as metadata."""
    return shard.removesuffix(".tar") + ".parquet"
