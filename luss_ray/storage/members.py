"""Members of tar shards by byte range: neighbouring ones in one request, several shards at a time."""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.storage.uri import Location

_NUM_REQUESTS = 16


def read_members(
    location: Location,
    *,
    shards: Sequence[str],
    shard_ids: np.ndarray,
    offsets: np.ndarray,
    sizes: np.ndarray,
    keys: list[str],
    versions: dict[str, str],
) -> list[bytes | BadSampleError | None]:
    """Return the data of each member: bytes, None where its size is 0, an error in the place of one that can't be read.

    Args:
        location: the folder of the shards.
        shards: names of all shards below it.
        shard_ids: position in `shards` for each member, n of them.
        offsets: first byte of each member, n.
        sizes: bytes of each member, n; 0 = there is no such member.
        keys: sample key of each member, n, for the errors.
        versions: the version in which each shard was first read, by its name; new ones are added.

    Raises:
        UserError: the store itself failed (no access, no network), or a shard is not the one that was read before:
            that is not the sample's fault.
    """
    out: list[bytes | BadSampleError | None] = [None] * len(keys)
    wanted = np.flatnonzero(sizes > 0)
    groups = [wanted[shard_ids[wanted] == shard_id] for shard_id in np.unique(shard_ids[wanted])]

    def read(group: np.ndarray) -> list[bytes | BadSampleError]:
        shard = _Shard(location, shards[int(shard_ids[group[0]])], versions)
        return shard.read(offsets[group], sizes[group], [keys[i] for i in group])

    parallel = len(groups) > 1 and not location.is_local
    for group, data in zip(groups, _threads().map(read, groups) if parallel else map(read, groups), strict=True):
        for i, piece in zip(group, data, strict=True):
            out[i] = piece
    return out


class _Shard(NamedTuple):
    location: Location
    name: str
    versions: dict[str, str]

    def read(self, offsets: np.ndarray, sizes: np.ndarray, keys: list[str]) -> list[bytes | BadSampleError]:
        try:
            pieces = self.location.read_ranges(self.name, offsets.tolist(), sizes.tolist())
        except (EOFError, FileNotFoundError) as error:
            if len(keys) == 1:
                reason = "the shard is missing" if isinstance(error, FileNotFoundError) else "the shard is cut short"
                return [BadSampleError(reason, shard=self.location.child(self.name).uri, key=keys[0])]
            alone = range(len(keys))  # find out which of them it is
            return [self.read(offsets[i : i + 1], sizes[i : i + 1], [keys[i]])[0] for i in alone]
        if self.versions.setdefault(self.name, pieces.version) != pieces.version:
            raise UserError(
                f"{self.location.child(self.name).uri} was changed while in use: shards must stay as they are; "
                "put the old one back, or pack anew and start another run"
            )
        return list(pieces.data)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_NUM_REQUESTS, thread_name_prefix="read-members")
