"""Tar shards, written the same byte for byte for the same members, with the offsets by which members are read."""

import tarfile
from collections.abc import Iterable
from io import BufferedIOBase
from typing import BinaryIO, NamedTuple

_BLOCK_BYTES = tarfile.BLOCKSIZE


class Member(NamedTuple):
    """One file within a tar shard."""

    name: str
    """Its path in the tar, e.g. `n01443537/n01443537_16.jpg`."""
    offset: int
    """First byte of its data in the tar."""
    size_bytes: int
    """Size of its data."""


def write_tar(out: BinaryIO, members: Iterable[tuple[str, bytes]]) -> list[Member]:
    """Write a tar and return its members with their offsets.

    Equal members give equal bytes: times, owners and modes are fixed. Names longer than 100 bytes or beyond ASCII get
    PAX headers, which every tar reader of the last twenty years knows.

    Args:
        out: a binary stream at its beginning.
        members: (name, data) pairs in the order in which they are to be read.
    """
    written: list[Member] = []
    position = 0
    for name, data in members:
        header = _header(name, len(data))
        position += len(header)
        written.append(Member(name, position, len(data)))
        padding = -len(data) % _BLOCK_BYTES
        out.writelines((header, data, bytes(padding)))
        position += len(data) + padding
    ending = 2 * _BLOCK_BYTES
    out.write(bytes(ending + -(position + ending) % tarfile.RECORDSIZE))
    return written


def scan_tar(source: BinaryIO | BufferedIOBase) -> list[Member]:
    """Return the members of a tar with their offsets, without reading their data.

    Args:
        source: a seekable binary stream.

    Raises:
        ValueError: it is not a complete, uncompressed tar.
    """
    try:
        with tarfile.open(fileobj=source, mode="r:") as tar:
            return [Member(info.name, info.offset_data, info.size) for info in tar if info.isfile()]
    except tarfile.TarError as error:
        raise ValueError(f"not a complete tar: {error}") from None


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
