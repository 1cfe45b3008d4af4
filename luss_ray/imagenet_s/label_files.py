"""Predictions and masks in folders laid out as the benchmark's: `<class>/<name>.png` below each of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt16

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.core.findings import Findings
from luss_ray.imagenet_s import masks as codec

MISSING = "images have no prediction; scored as other everywhere"
EXTRA = "predictions have no mask; left out"
NO_ATTENTION = "images have no attention map; they keep their labels at every threshold"
NOT_RGB = "PNGs are grey or palette images; their values are taken for ids"

_COLOUR_TYPE = 25
_RGB = (2, 6)


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """What is known of one image; all maps have the mask's size if they are right."""

    name: str
    """For messages."""
    prediction: UInt16[np.ndarray, "h w"] | None
    """Predicted ids, or None where the prediction is missing."""
    mask: UInt16[np.ndarray, "h1 w1"]
    """Ground truth: 0 = other, 1000 = ignore."""
    attention: Float[np.ndarray, "h2 w2"] | None = None
    """Attention, float16 or float32."""


@dataclass(frozen=True, kw_only=True)
class LabelFiles:
    """Which masks are scored, and where the prediction and the attention of each would lie."""

    predictions: Path
    """Folder of predictions, the names below it being the masks'."""
    masks: Path
    """Folder of ground truth."""
    names: list[str]
    """The masks that are scored, `<class>/<name>.png`, in their order."""
    attention: Path | None
    """Folder of attention maps, `<class>/<name>.npy`, where there are any."""

    def read(self, name: str, findings: Findings) -> LabelledImage:
        """Return prediction, mask and attention of one image.

        Args:
            name: one of `names`.
            findings: is told what is odd about the files.

        Raises:
            UserError: a file that can't be read as what it should be; the message names it.
        """
        mask = _read_ids(self.masks / name, findings)
        prediction = self.predictions / name
        ids = _read_ids(prediction, findings) if prediction.exists() else None
        return LabelledImage(name=name, prediction=ids, mask=mask, attention=self._attention(name, findings))

    def _attention(self, name: str, findings: Findings) -> Float[np.ndarray, "h w"] | None:
        if self.attention is None:
            return None
        path = (self.attention / name).with_suffix(".npy")
        if not path.exists():
            findings.add(NO_ATTENTION, str(path))
            return None
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise UserError(f"{path} is not a readable .npy array") from None
        if values.ndim != 2 or values.dtype not in (np.float16, np.float32):
            raise UserError(f"{path} holds {values.dtype} of shape {values.shape}: give float16 or float32, (H, W)")
        return values


def find_label_files(
    predictions: Path, masks: Path, *, names: Path | None = None, attention: Path | None = None
) -> tuple[LabelFiles, Findings]:
    """Return what is to be scored in two folders, and what is odd about it.

    Args:
        predictions: folder of predicted PNGs.
        masks: folder of ground-truth PNGs.
        names: the benchmark's list of `image mask` pairs, one a line; None scores every mask, sorted by name.
        attention: folder of attention maps for the threshold curve.

    Raises:
        UserError: a folder that is missing or empty, or a list that names a mask that is not there.
    """
    there = _pngs(masks, "mask")
    chosen = sorted(there) if names is None else _listed(names, masks, there)
    predicted = _pngs(predictions, "prediction")
    if attention is not None and not attention.is_dir():
        raise UserError(f"{attention} is not a folder of attention maps")
    if predicted.isdisjoint(chosen):
        raise UserError(
            f"none of the {len(chosen)} masks in {masks} has a prediction: {predictions / chosen[0]} was looked for"
        )
    findings = Findings()
    for name in chosen:
        if name not in predicted:
            findings.add(MISSING, str(predictions / name))
    for name in sorted(predicted.difference(chosen)):
        findings.add(EXTRA, str(predictions / name))
    return LabelFiles(predictions=predictions, masks=masks, names=chosen, attention=attention), findings


def _pngs(folder: Path, what: str) -> set[str]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of {what}s")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    if not found:
        raise UserError(f"{folder} holds no {what}s (looked for <class>/<name>.png)")
    return found


def _listed(names: Path, masks: Path, there: set[str]) -> list[str]:
    """Return the masks in a file of names, all of which must be there, once."""
    try:
        lines = names.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the names in {names} ({type(error).__name__})") from None
    chosen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 2:
            raise UserError(f"{names}, line {number}: give an image and its mask, not {line.strip()!r}")
        if words[1] not in there:
            raise UserError(f"{names}, line {number}: there is no mask {masks / words[1]}")
        if words[1] in chosen:
            raise UserError(f"{names}, line {number}: {words[1]} was named on line {chosen[words[1]]} already")
        chosen[words[1]] = number
    if not chosen:
        raise UserError(f"{names} names no mask")
    return list(chosen)


def _read_ids(path: Path, findings: Findings) -> UInt16[np.ndarray, "h w"]:
    try:
        data = path.read_bytes()
        ids = codec.decode(data)
    except (OSError, BadSampleError) as error:
        raise UserError(f"{path}: {error}") from None
    if data[_COLOUR_TYPE] not in _RGB:
        findings.add(NOT_RGB, str(path))
    return ids
