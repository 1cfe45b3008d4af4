"""What the benchmark's server takes: a zip of class folders with predictions, the matching, and words on the method."""

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.lists import SUBSETS

METHOD, MATCHING = "method.txt", "match.json"
_NAME = re.compile(r"n\d{8}/ILSVRC2012_val_\d{8}\.png")
_NUM_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Method:
    """What `method.txt` says."""

    name: str
    """Name of the method."""
    training_data: str
    """What it was trained on."""
    training_scheme: str
    """The protocol, and whether pretrained weights were used."""
    networks: str
    """Architectures."""
    link: str = ""
    """Paper or code."""
    description: str = ""
    """A few sentences."""

    def text(self) -> str:
        """Return the file's content, a line a field."""
        return "".join(f"{f.name.replace('_', ' ').capitalize()}: {getattr(self, f.name)}\n" for f in fields(self))


def write_submission(
    path: Path, predictions: Iterable[tuple[str, bytes]], *, method: Method, matching: Mapping[int, int] | None
) -> None:
    """Write a submission; the file is there when it is whole.

    Args:
        path: the zip.
        predictions: key (`<class>/<name>`) and encoded label map of each image.
        method: words on it.
        matching: cluster -> category, both from 1, where the predictions are clusters.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
        for key, data in predictions:
            archive.writestr(f"{key}.png", data)
        if matching is not None:
            archive.writestr(MATCHING, json.dumps({str(cluster): category for cluster, category in matching.items()}))
        archive.writestr(METHOD, method.text())
    unfinished.replace(path)


def check_submission(path: Path, sizes: Mapping[str, tuple[int, int]], *, num_categories: int) -> None:
    """Return when a submission is what the server expects.

    Args:
        path: the zip.
        sizes: (height, width) of every image of the split by its key.
        num_categories: N; of the benchmark's subsets, names are checked too.

    Raises:
        UserError: it isn't; the message says what and where.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            found = names - {METHOD, MATCHING}
            _check_names(path, found, {f"{key}.png" for key in sizes})
            odd = sorted(name for name in found if not _NAME.fullmatch(name))
            if odd and num_categories in SUBSETS:
                raise UserError(f"{path}: {odd[0]} is not named as ImageNet's validation images are")
            if METHOD not in names:
                raise UserError(f"{path} has no {METHOD}")
            highest = num_categories
            if MATCHING in names:
                highest = _check_matching(path, archive.read(MATCHING), num_categories)
            for key, size in sizes.items():
                _check_prediction(f"{path}#{key}.png", archive.read(f"{key}.png"), size, highest)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no readable zip ({error})") from None


def _check_names(path: Path, found: set[str], wanted: set[str]) -> None:
    for what, names in (("lacks predictions", wanted - found), ("has files that are none", found - wanted)):
        if names:
            raise UserError(f"{path} {what}, {len(names)} of them: {', '.join(sorted(names)[:_NUM_NAMED])}")


def _check_matching(path: Path, data: bytes, num_categories: int) -> int:
    """Return the highest cluster that is matched."""
    pairs = {int(cluster): int(category) for cluster, category in json.loads(data).items()}
    chosen = [category for category in pairs.values() if category]
    if len(set(chosen)) < len(chosen) or not all(0 <= category <= num_categories for category in pairs.values()):
        raise UserError(f"{path}: {MATCHING} is not one-to-one into 1 to {num_categories}")
    return max(pairs, default=0)


def _check_prediction(where: str, data: bytes, size: tuple[int, int], highest: int) -> None:
    try:
        ids = masks.decode(data)
    except BadSampleError as error:
        raise UserError(f"{where}: {error}") from None
    if ids.shape != size:
        raise UserError(f"{where} has {ids.shape[1]} x {ids.shape[0]} pixels, its image {size[1]} x {size[0]}")
    if ids.max(initial=0) > highest:
        raise UserError(f"{where} holds id {ids.max()}, the highest is {highest}")
