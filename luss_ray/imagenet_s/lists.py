"""The benchmark's lists: which ImageNet images make which split of which subset, and under which class."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from luss_ray.core.errors import UserError

SUBSETS = (50, 300, 919)
"""Categories of each subset; people call them S50, S300 and S919."""
MERGES = {
    "n04356056": "n04355933",
    "n04493381": "n02808440",
    "n03642806": "n03832673",
    "n04008634": "n03773504",
    "n03887697": "n15075141",
}
"""ImageNet classes that S919 counts as another; their files keep the old id in their names."""
PUBLISHED: Mapping[int, Mapping[str, int]] = {
    50: {"train": 64_431, "train-semi": 500, "validation": 752, "test": 1_682},
    300: {"train": 384_862, "train-semi": 3_000, "validation": 4_097, "test": 9_088},
    919: {"train": 1_183_322, "train-semi": 9_190, "validation": 12_419, "test": 27_423},
}
"""Images of each split. Source: Gao et al., arXiv 2106.03149, section on the dataset."""


class Listed(NamedTuple):
    """An image of a split."""

    stem: str
    """File name without its suffix, unique in ImageNet: `n01443537_23292`, `ILSVRC2012_val_00004677`."""
    source: str
    """Class folder in which ImageNet has it."""
    category: str
    """Class folder under which the benchmark has it: hundreds of validation images were relabelled."""


@dataclass(frozen=True, kw_only=True)
class Subset:
    """One subset's lists."""

    size: int
    """Number of categories: 50, 300 or 919."""
    ids: Mapping[str, int]
    """Category id, 1..N, of each WordNet id, in the order of the ids."""
    train_semi: tuple[Listed, ...]
    """Training images with a mask."""
    validation: tuple[Listed, ...]
    """Images of ImageNet's validation set with a mask."""
    test: tuple[Listed, ...] | None
    """Images of ImageNet's validation set whose masks are not public; None where their list is missing."""

    @property
    def name(self) -> str:
        """Name of its dataset: `imagenet-s-50`."""
        return f"imagenet-s-{self.size}"

    def category(self, wnid: str) -> str | None:
        """Return the category of an ImageNet class, which may be another class's, or None outside this subset."""
        category = MERGES.get(wnid, wnid) if self.size == SUBSETS[-1] else wnid
        return category if category in self.ids else None


def read_subset(lists: Path, size: int) -> Subset:
    """Return one subset's lists.

    Args:
        lists: the folder with `categories`, `mapping` and `names` of the ImageNet-S repository, or one with a folder
            `data` that has them.
        size: 50, 300 or 919.

    Raises:
        UserError: a list (other than the test mapping) is missing, or a line is not what it should be.
    """
    root = lists / "data" if (lists / "data" / "categories").is_dir() else lists
    categories = [words[0] for words in _lines(root / "categories" / f"ImageNetS_categories_im{size}.txt", 1)]
    if len(set(categories)) != len(categories) or len(categories) != size:
        raise UserError(f"{root / 'categories'}: the list of S{size} has {len(set(categories))} categories, not {size}")
    test = root / "mapping" / f"ImageNetS_im{size}_mapping_test.txt"
    subset = Subset(
        size=size,
        ids={wnid: number for number, wnid in enumerate(categories, 1)},
        train_semi=_pairs(root / "names" / f"ImageNetSemi_im{size}_train.txt", of_masks=True),
        validation=_pairs(root / "mapping" / f"ImageNetS_im{size}_mapping_validation.txt"),
        test=_pairs(test) if test.is_file() else None,
    )
    for listed in (*subset.train_semi, *subset.validation, *(subset.test or ())):
        if listed.category not in subset.ids:
            raise UserError(
                f"the lists of S{size} put {listed.stem} into {listed.category}, which is no category of it"
            )
    return subset


def _pairs(file: Path, *, of_masks: bool = False) -> tuple[Listed, ...]:
    """Return the lines `source destination` of a mapping, or `image mask` of a list of names."""
    found: dict[str, Listed] = {}
    for number, (source, destination) in enumerate(_lines(file, 2), 1):
        folder, _, name = source.partition("/")
        category, _, other = destination.partition("/")
        stem = name.rpartition(".")[0]
        if not stem or stem != other.rpartition(".")[0] or stem in found:
            raise UserError(f"{file}, line {number}: {source} and {destination} are no pair")
        # A training image's own class is the start of its name, whatever folder a merge has put it into.
        found[stem] = Listed(stem, stem.partition("_")[0] if of_masks else folder, category)
    return tuple(found.values())


def _lines(file: Path, num_words: int) -> list[list[str]]:
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {file} ({type(error).__name__}): give --lists the benchmark's") from None
    for number, words in enumerate(lines, 1):
        if len(words) != num_words:
            raise UserError(f"{file}, line {number}: {num_words} words are wanted, not {' '.join(words)!r}")
    if not lines:
        raise UserError(f"{file} is empty")
    return lines
