"""Checkpoints: everything that influences the result, free of the world size, published atomically.

One checkpoint is one safetensors object, whose header carries the rest of the state as JSON. It appears whole or not at
all, so the newest one present is good; loading never unpickles code.
"""

import json
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from luss_ray.storage.uri import Location

log = logging.getLogger(__name__)
_SUFFIX = ".safetensors"
_LENGTH_BYTES = 8
"""safetensors begins with the length of its header, little-endian."""


@dataclass(kw_only=True)
class Checkpoint:
    """The state of a training stage between two steps."""

    step: int
    """Global steps finished: the resume cursor."""
    settings: str
    """Digest of the settings and data it belongs to."""
    consumption: dict[str, Any]
    """Count and hash of the samples used so far, over all ranks (data/audit.py)."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Rows of figures logged so far."""
    quarantined: dict[str, str] = field(default_factory=dict)
    """Samples that couldn't be used so far, as shard URI#key, and what was used instead."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Weights (`network/…`), optimiser (`optimiser/…`), the trainee's own state (`trainee/…`) and the loss' scale
    (`precision/…`)."""


def section(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors below `name/`, without that prefix."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's per-parameter state as flat tensors named `<parameter number>.<name>`."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give back to `optimiser` what `optimiser_tensors` took, in the memory order of its parameters.

    Without that its functions on lists of tensors would go through them one by one on a GPU.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    for parameter, own in optimiser.state.items():
        for name, value in own.items():
            if value.shape == parameter.shape:
                own[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class CheckpointStore:
    """Writes checkpoints below a folder in the background and finds the newest.

    Args:
        folder: where they lie.
        keep: how many of them stay.
    """

    def __init__(self, folder: Location, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def newest(self, settings: str) -> int | None:
        """Return the step of the newest whole checkpoint of these settings, or None; tensors are not read."""
        for name in reversed(self.folder.list(suffix=_SUFFIX)):
            about = self._about(name)
            if about is not None and about["settings"] == settings:
                return about["step"]
        return None

    def load(self, step: int) -> Checkpoint:
        """Return the checkpoint of a step that `newest` named."""
        return _decode(self.folder.read(_name(step)))

    def newest_about(self) -> dict[str, Any] | None:
        """Return what the newest whole checkpoint says besides its tensors, which are not read; None without one."""
        names = reversed(self.folder.list(suffix=_SUFFIX))
        return next((about for name in names if (about := self._about(name)) is not None), None)

    def clear_leftovers(self) -> None:
        """Delete what killed writers left here; only while nobody writes."""
        self.folder.delete_leftovers()

    def _about(self, name: str) -> dict[str, Any] | None:
        """Return the header of a checkpoint, or None (and a warning) where the file is not whole."""
        try:
            length = int.from_bytes(self.folder.read_range(name, 0, _LENGTH_BYTES), "little")
            size = self.folder.size_bytes(name)
            if length <= size - _LENGTH_BYTES:
                header = json.loads(self.folder.read_range(name, _LENGTH_BYTES, length))
                tensors = [entry for key, entry in header.items() if key != "__metadata__"]
                end = max((entry["data_offsets"][1] for entry in tensors), default=0)
                if size == _LENGTH_BYTES + length + end:
                    return json.loads(header["__metadata__"]["checkpoint"])
        except (EOFError, ValueError, KeyError):
            pass
        log.warning("%s is not a whole checkpoint and is passed over", self.folder.child(name).uri)
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write in the background; at most one write is under way.

        Raises:
            UserError: the previous write was refused (disk full, no permission).
        """
        self.wait()
        tensors = {key: value.detach().to("cpu", copy=True) for key, value in checkpoint.tensors.items()}
        self._pending = self._writer.submit(self._write, checkpoint.step, _encode(checkpoint, tensors))

    def wait(self) -> None:
        """Wait until the last checkpoint lies there."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _write(self, step: int, data: bytes) -> None:
        self.folder.write(_name(step), data)
        for name in self.folder.list(suffix=_SUFFIX)[: -self.keep]:
            self.folder.delete(name)


def _name(step: int) -> str:
    return f"{step:09d}{_SUFFIX}"


def _encode(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> bytes:
    about = {
        "step": checkpoint.step,
        "settings": checkpoint.settings,
        "consumption": checkpoint.consumption,
        "history": checkpoint.history,
        "quarantined": checkpoint.quarantined,
    }
    contiguous = {key: value.contiguous() for key, value in tensors.items()}
    return safetensors.torch.save(contiguous, metadata={"checkpoint": json.dumps(about)})


def _decode(data: bytes) -> Checkpoint:
    header = data[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")]
    about = json.loads(json.loads(header)["__metadata__"]["checkpoint"])
    return Checkpoint(**about, tensors=safetensors.torch.load(data))
