"""Files of weights: safetensors, or PyTorch's own format read without running any code in it."""

import argparse
import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from luss_ray.core.errors import UserError
from luss_ray.storage.uri import Location

SAFETENSORS = ".safetensors"
_REMEDY = "give .safetensors, or a .pth that torch.save wrote"
_NESTED = ("state_dict", "model", "teacher")
_PREFIXES = ("module.", "backbone.")
_scalar = np.float64(0).__reduce__()[0]
_HARMLESS = [argparse.Namespace, np.dtype, np.dtypes.Float64DType, np.dtypes.Int64DType]
_HARMLESS += [_scalar, (_scalar, "numpy.core.multiarray.scalar")]
"""What checkpoints hold beside tensors, settings and scores; making one of these runs nothing else."""
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")


@dataclass(frozen=True)
class WeightsFile:
    """A state dict in a file."""

    location: Location

    def __call__(self) -> dict[str, Tensor]:
        """Return the state dict with plain names; see `state_dict_in`.

        Raises:
            UserError: it is missing, is no such file, or holds what only running code could read.
        """
        uri = self.location.uri
        data = self._read()
        if self.location.path.endswith(SAFETENSORS):
            try:
                return state_dict_in(safetensors.torch.load(data), uri)
            except safetensors.SafetensorError as error:
                raise UserError(f"{uri} is no safetensors file, or not the whole of it ({error})") from None
        return state_dict_in(_load_pytorch(data, uri), uri)

    def sha256(self) -> str:
        """Return the digest of the file: other weights at the same place are other weights.

        Raises:
            UserError: it is missing.
        """
        return hashlib.sha256(self._read()).hexdigest()

    def _read(self) -> bytes:
        try:
            return self.location.read()
        except FileNotFoundError:
            raise UserError(f"no weights at {self.location.uri}: give a run's folder or a weights file") from None


def _load_pytorch(data: bytes, uri: str) -> Any:
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles, which end in an error or not at all
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise UserError(f"{uri} is no file of weights: {_REMEDY}") from None
        raise UserError(
            f"{uri} holds a {refused[1]}, which can't be read without running code from the file: "
            "save its state dict alone where you trust it, or as safetensors"
        ) from None
    except Exception as error:  # torch raises anything on hostile bytes
        raise UserError(
            f"{uri} is no file of weights, or not the whole of it ({type(error).__name__}): {_REMEDY}"
        ) from error


def state_dict_in(content: Any, uri: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by plain name.

    Trainers put the state dict below "state_dict", "model" or "teacher", and names behind "module." or "backbone.":
    these are taken off, unless two entries would have one name then.

    Args:
        content: what the file held.
        uri: names it in errors.

    Raises:
        UserError: there is no tensor in it.
    """
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)} if _named(content) else {}
    if not state:
        raise UserError(f"{uri} holds no named weights: give a file with a model's state dict")
    for prefix in _PREFIXES:
        plain = {name.removeprefix(prefix): value for name, value in state.items()}
        if len(plain) == len(state):
            state = plain
    return state


def _named(content: Any) -> bool:
    return isinstance(content, Mapping) and all(isinstance(name, str) for name in content)
