"""Locations: a local folder or `s3://bucket/prefix`, read and written by the same calls."""

import contextlib
import io
import json
import re
import shutil
import tempfile
import uuid
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError

from luss_ray.core.errors import UserError
from luss_ray.storage.store import (
    CutOffError,
    Patience,
    check_credentials,
    one_line_errors,
    open_store,
    persevering,
)

if TYPE_CHECKING:
    from obstore import ReadableFile

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_STAGED = re.compile(r"#\d+$")
_MAX_COLLISIONS = 3
_MAX_PUT_BYTES = 5 * 10**9
_COALESCE_BYTES = 256 * 1024
_READ_AHEAD_BYTES = 4 * 2**20


class Pieces(NamedTuple):
    """Parts of one object."""

    data: list[bytes]
    """What was asked for, in that order."""
    version: str
    """What the store calls this content of the object (its ETag); another one after a change."""


@dataclass(frozen=True)
class Location:
    """A folder or an object, on local disk or in S3. Small and picklable: clients live in each process, never in it.

    Every method takes the name of an object below this location; the empty name is the location itself.
    """

    bucket: str
    """S3 bucket; empty for local disk."""
    path: str
    """Absolute path (local) or key prefix (S3), without a slash at the end."""

    @classmethod
    def parse(cls, text: str | Path) -> "Location":
        """Return the location that a user named.

        Args:
            text: a local path, `file:///path` or `s3://bucket/prefix`.

        Raises:
            UserError: an unknown kind of URI, a bad bucket name, or S3 without credentials.
        """
        text = str(text).strip()
        if not text:
            raise UserError("an empty URI: give a folder or s3://bucket/prefix")
        scheme, separator, rest = text.partition("://")
        if not separator:
            if re.match(r"s3:", text):
                raise UserError("a URI for S3 looks like s3://bucket/prefix, with two slashes")
            return cls("", _absolute(text))
        if scheme == "file":
            return cls("", _absolute(rest))
        if scheme != "s3":
            raise UserError(f"unknown kind of URI {scheme}://…: give a folder, file:///path or s3://bucket/prefix")
        location = _parse_s3(rest)
        check_credentials(location.uri)
        return location

    @property
    def uri(self) -> str:
        """The location as text that `parse` accepts."""
        return f"s3://{self.bucket}/{self.path}".rstrip("/") if self.bucket else self.path

    @property
    def is_local(self) -> bool:
        """Whether it is on local disk."""
        return not self.bucket

    @property
    def parent(self) -> "Location":
        """The folder that this location is in."""
        return Location(self.bucket, self.path.rpartition("/")[0] or ("" if self.bucket else "/"))

    @property
    def local_path(self) -> Path:
        """The local path; only for a location on local disk."""
        assert self.is_local, f"{self.uri} is not on local disk"
        return Path(self.path)

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> "Location":
        return self.child(name)

    def child(self, *parts: str) -> "Location":
        """Return the folder or object `parts` below this one; UserError where they would lead out of it."""
        names = [name for part in parts for name in part.split("/") if name]
        if {".", ".."} & set(names):
            raise UserError(f"{'/'.join(parts)} leads out of {self.uri}: give a name without . and ..")
        path = "/".join([self.path.rstrip("/"), *names])
        return Location(self.bucket, path.lstrip("/") if self.bucket else path or "/")

    @persevering
    def read(self, name: str = "") -> bytes:
        """Return the content of an object.

        Raises:
            FileNotFoundError: there is none; the message has its full URI.
            UserError: the store refused.
        """
        target = self.child(name)
        with one_line_errors(target.uri, "read"):
            return obstore.get(open_store(self.bucket), target._key).bytes().to_bytes()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Return `length` bytes from byte `start` on; see `read_ranges`."""
        return self.read_ranges(name, [start], [length]).data[0]

    @persevering
    def read_ranges(self, name: str, starts: Sequence[int], lengths: Sequence[int]) -> "Pieces":
        """Return several pieces of one object, neighbouring ones fetched by one request.

        Args:
            name: the object.
            starts: first byte of each piece.
            lengths: number of bytes of each piece, at least 1.

        Raises:
            FileNotFoundError: no such object.
            EOFError: the object ends before a piece does.
            UserError: the store refused.
        """
        if not starts:
            return Pieces([], "")
        target = self.child(name)
        spans = _merged(starts, lengths)
        first, sizes = [start for start, _ in spans], [stop - start for start, stop in spans]
        store = open_store(self.bucket)
        with one_line_errors(target.uri, "read"):
            # Only a plain request tells the object's version.
            answer = obstore.get(store, target._key, options={"range": spans[0]})
            version, buffers = answer.meta["e_tag"] or "", [answer.bytes()]
            if len(spans) > 1:
                # obstore's own merging ends the process when an object is shorter than expected, hence `coalesce=0`
                buffers += obstore.get_ranges(store, target._key, starts=first[1:], lengths=sizes[1:], coalesce=0)
        if any(len(buffer) != size for buffer, size in zip(buffers, sizes, strict=True)):
            raise EOFError(f"{target.uri} ends before the bytes asked for")
        views = [memoryview(buffer) for buffer in buffers]
        places = zip(starts, lengths, (bisect_right(first, start) - 1 for start in starts), strict=True)
        data = [bytes(views[i][start - first[i] : start - first[i] + length]) for start, length, i in places]
        return Pieces(data, version)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[io.BufferedIOBase]:
        """Return a context with an object as a seekable stream, for reading through large ones.

        Raises:
            FileNotFoundError: no such object.
            UserError: the store refused.
        """
        target = self.child(name)
        with one_line_errors(target.uri, "read"):
            if self.is_local:
                with target.local_path.open("rb") as stream:
                    yield stream
            else:
                reader = obstore.open_reader(open_store(self.bucket), target._key, buffer_size=_READ_AHEAD_BYTES)
                yield io.BufferedReader(_Raw(reader), _READ_AHEAD_BYTES)

    @persevering
    def size_bytes(self, name: str = "") -> int:
        """Return the size of an object in bytes; FileNotFoundError if there is none."""
        target = self.child(name)
        with one_line_errors(target.uri, "read"):
            return obstore.head(open_store(self.bucket), target._key)["size"]

    def exists(self, name: str = "") -> bool:
        """Return whether there is an object of this name (a folder is not one)."""
        try:
            self.size_bytes(name)
        except FileNotFoundError:
            return False
        return True

    @persevering
    def list(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Return the sorted names, relative to this location, of all objects in the folder `prefix` and below it.

        Args:
            prefix: a folder below this location; empty = all of it.
            suffix: only names that end so. Give one: other writers leave empty marker objects in S3.
        """
        folder, root = self.child(prefix), self._key
        cut = len(root) + 1 if root else 0
        with one_line_errors(folder.uri, "list"):
            batches = obstore.list(open_store(self.bucket), prefix=folder._key or None, chunk_size=1000)
            names = [item["path"][cut:] for batch in batches for item in batch]
        return sorted(name for name in names if name.endswith(suffix))

    @persevering
    def write(self, name: str, data: bytes) -> None:
        """Write an object, replacing an older one; readers see the old or the new content, never a mixture.

        Raises:
            UserError: the disk is full or the store refused.
        """
        target = self.child(name)
        with one_line_errors(target.uri, "write"):
            obstore.put(open_store(self.bucket), target._key, data, use_multipart=len(data) > _MAX_PUT_BYTES)

    def create(self, name: str, data: bytes | Path) -> bool:
        """Publish an object that must not exist yet, whole or not at all.

        One conditional request (S3) or a hard link of a finished file (local): of any number of racing writers exactly
        one wins, and a writer that is killed leaves nothing readable.

        Args:
            name: the object.
            data: its content (up to 5 GB), or the local file that holds it.

        Returns:
            True for the winner; False when the object exists already, be it by an earlier attempt of this very call
            whose answer got lost on its way.

        Raises:
            UserError: the disk is full or the store refused.
        """
        target, patience, num_collisions = self.child(name), Patience(), 0
        while num_collisions < _MAX_COLLISIONS:
            try:
                with one_line_errors(target.uri, "write"):
                    obstore.put(open_store(self.bucket), target._key, data, mode="create", use_multipart=False)
                return True
            except CutOffError as error:
                patience.wait(error)
            except AlreadyExistsError:
                if target.exists():
                    return False
                num_collisions += 1  # two requests collided and the store turned away both: try again
        raise UserError(f"cannot write {target.uri}: the store refuses a conditional write again and again")

    @persevering
    def copy_from(self, source: "Location", name: str) -> None:
        """Copy an object of the same name from another location, replacing an older one; see `write`.

        Raises:
            FileNotFoundError: no such object there.
            UserError: one of the stores refused, or the disk is full.
        """
        theirs, ours = source.child(name), self.child(name)
        with one_line_errors(f"{theirs.uri} to {ours.uri}", "copy"):
            if self.bucket and self.bucket == source.bucket:
                obstore.copy(open_store(self.bucket), theirs._key, ours._key)
                return
            if source.is_local:
                obstore.put(open_store(self.bucket), ours._key, theirs.local_path)
                return
            with source.open(name) as stream, tempfile.NamedTemporaryFile() as passing:
                shutil.copyfileobj(stream, passing, _READ_AHEAD_BYTES)
                passing.flush()
                obstore.put(open_store(self.bucket), ours._key, Path(passing.name))

    @persevering
    def delete(self, name: str = "") -> None:
        """Delete an object; nothing happens when there is none."""
        target = self.child(name)
        try:
            with one_line_errors(target.uri, "delete"):
                obstore.delete(open_store(self.bucket), target._key)
        except FileNotFoundError:
            return

    @persevering
    def delete_prefix(self, prefix: str = "") -> None:
        """Delete everything in the folder `prefix`, and on local disk the folder itself."""
        folder = self.child(prefix)
        assert folder._key, "refusing to delete a whole disk or bucket"
        with one_line_errors(folder.uri, "delete"):
            if self.is_local:
                shutil.rmtree(folder.local_path, ignore_errors=True)
                if folder.local_path.is_dir():  # say why, unless another process was deleting or writing here too
                    shutil.rmtree(folder.local_path)
                return
            names = [folder.child(name)._key for name in folder.list()]
            if names:
                obstore.delete(open_store(self.bucket), names)

    def delete_leftovers(self) -> None:
        """Delete the hidden files that killed writers left on local disk (S3 keeps none).

        Only for folders in which nothing is being written: a writer whose file goes fails.
        """
        if self.is_local:
            for path in self.local_path.rglob("*#*"):
                if _STAGED.search(path.name):
                    path.unlink(missing_ok=True)

    def check_writable(self) -> None:
        """Return when a small object could be written here and deleted again.

        Raises:
            UserError: it could not; the message says why.
        """
        name = f".writable-{uuid.uuid4().hex}"
        self.write(name, b"luss_ray")
        self.delete(name)

    def read_json(self, name: str = "") -> Any:
        """Return the content of a JSON object; UserError if it is not valid JSON."""
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.child(name).uri} is not valid JSON; was it changed by hand?") from None

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as JSON, replacing an older object."""
        self.write(name, json_bytes(value))

    def read_table(self, name: str = "") -> pa.Table:
        """Return the content of a Parquet object; UserError if it is damaged."""
        data = self.read(name)
        try:
            return pq.read_table(pa.BufferReader(data))
        except pa.ArrowInvalid:
            raise UserError(f"{self.child(name).uri} is not a readable Parquet file") from None

    @persevering
    def read_columns(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Return some columns of a Parquet object and its metadata, reading little else; UserError if it is damaged."""
        try:
            with self.open(name) as stream:
                return pq.read_table(stream, columns=list(columns))
        except pa.ArrowInvalid:
            raise UserError(f"{self.child(name).uri} is not a readable Parquet file") from None

    def create_table(self, name: str, table: pa.Table) -> bool:
        """Publish a table as Parquet like `create`: exactly once. The same table gives the same bytes."""
        return self.create(name, parquet_bytes(table))

    @property
    def _key(self) -> str:
        return self.path if self.bucket else self.path.lstrip("/")


class _Raw(io.RawIOBase):
    """obstore's reader as a stream of Python's."""

    def __init__(self, reader: "ReadableFile") -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        data = self._reader.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def json_bytes(value: Any) -> bytes:
    """Return `value` as indented JSON in UTF-8."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(errors="backslashreplace")


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a zstd-compressed Parquet file in memory."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _merged(starts: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return the sorted (start, stop) spans that cover all pieces, those with small gaps between them joined."""
    spans: list[tuple[int, int]] = []
    for start, length in sorted(zip(starts, lengths, strict=True)):
        if spans and start - spans[-1][1] <= _COALESCE_BYTES:
            spans[-1] = (spans[-1][0], max(spans[-1][1], start + length))
        else:
            spans.append((int(start), int(start + length)))
    return spans


def _absolute(text: str) -> str:
    return str(Path(text).expanduser().absolute().resolve())


def _parse_s3(rest: str) -> Location:
    bucket, _, path = rest.partition("/")
    if "@" in bucket or ":" in bucket:
        raise UserError("keys do not belong into an s3:// URI: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if not _BUCKET.fullmatch(bucket):
        raise UserError(f"{bucket!r} is not a bucket name: give s3://bucket/prefix")
    if {".", ".."} & set(path.split("/")):
        raise UserError(f"s3://{rest} has a '.' or '..' in it: give the plain prefix")
    return Location(bucket, "/".join(name for name in path.split("/") if name))
