"""What trackers' own files say, read by their own messages."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SECRET = "a-key-that-must-never-be-shown-anywhere-0123456789"
_BLOCK_BYTES, _HEAD = 32768, struct.Struct("<IHB")


def rows(*steps: int) -> list[dict[str, float]]:
    """Return rows of figures whose values follow from the step."""
    return [{"step": step, "loss": 1 / step, "lr": 0.1, "data/wait_s": 0.25 * step} for step in steps]


def events(data: bytes) -> list[Any]:
    """Return the events of a TensorBoard file, whose checksums must be right."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    found, at = [], 0
    while at < len(data):
        head, (length,) = data[at : at + 8], struct.unpack_from("<Q", data, at)
        body = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 8) == (masked_crc32c(head),)
        assert struct.unpack_from("<I", data, at + 12 + length) == (masked_crc32c(body),)
        found.append(Event.FromString(body))
        at += 16 + length
    return found


def scalars(files: list[bytes]) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of each tag in TensorBoard files, in the order written."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in (event for data in files for event in events(data)):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def as_scalars(stage: str, rows: list[dict[str, float]]) -> dict[str, list[tuple[int, float]]]:
    """Return what `scalars` gives for rows, which TensorBoard keeps in single precision."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name in row.keys() - {"step"}:
            found.setdefault(f"{stage}/{name}", []).append((int(row["step"]), float(np.float32(row[name]))))
    return found


def wandb_records(folder: Path) -> Iterator[Any]:
    """Yield the records of all runs that W&B has left in a folder, in the order of their names (times)."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, at, body = path.read_bytes(), 7, b""
        while at + _HEAD.size <= len(data):
            if _BLOCK_BYTES - at % _BLOCK_BYTES < _HEAD.size:
                at += _BLOCK_BYTES - at % _BLOCK_BYTES
                continue
            _, length, kind = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            body, at = body + data[at : at + length], at + length
            if kind in (1, 4):  # whole, or the last part
                yield Record.FromString(body)
                body = b""
