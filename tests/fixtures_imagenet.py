"""A look-alike of ImageNet-1k and of the ImageNet-S lists and masks, tiny, in all the forms that people have."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fixtures_shards import jpeg

from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.lists import MERGES, SUBSETS

MERGED = "n04356056"
_OUTSIDE = ("n09990000", "n09990001")


def wnid(number: int) -> str:
    return f"n{1_000_000 + number:08d}"


@dataclass(frozen=True)
class LookAlike:
    """Folders below `root`: `lists`, `annotations`, and ImageNet as `folders`, `tars` and `webdataset`."""

    root: Path
    train: dict[str, bytes]
    """Training images by stem."""
    val: dict[str, tuple[str, bytes]]
    """Validation images by stem: class folder and data."""

    @property
    def forms(self) -> dict[str, Path]:
        return {name: self.root / name for name in ("folders", "tars", "webdataset")}


def make_look_alike(root: Path, *, of_smallest: int = 4, num_train: int = 2) -> LookAlike:
    """Write the look-alike: training images of some classes, and one of each that the benchmark evaluates on.

    Args:
        root: where to.
        of_smallest: classes of the smallest subset that there are images of.
        num_train: images of each class.
    """
    categories = {size: [wnid(number) for number in range(size)] for size in SUBSETS}
    target = MERGES[MERGED]
    categories[919] = sorted([*categories[919][:-1], target])
    used = [
        *categories[50][:of_smallest],
        *categories[300][50:52],
        *categories[919][300:302],
        target,
        MERGED,
        *_OUTSIDE,
    ]
    train = {f"{name}_{i}": jpeg(hash_of(name) + i) for name in used for i in range(num_train)}
    val = {f"ILSVRC2012_val_{number:08d}": (name, jpeg(5000 + number)) for number, name in enumerate(used)}
    _write_folders(root / "folders", train, val)
    _write_tars(root / "tars", train, val)
    _write_webdataset(root / "webdataset", train, val)
    for size in SUBSETS:
        _write_lists(root, size, categories[size], train, val)
    return LookAlike(root, train, val)


def hash_of(name: str) -> int:
    return int(name[1:]) % 4000


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_folders(root: Path, train: dict, val: dict) -> None:
    for stem, data in train.items():
        _write(root / "train" / stem.partition("_")[0] / f"{stem}.JPEG", data)
    for stem, (folder, data) in val.items():
        _write(root / "val" / folder / f"{stem}.JPEG", data)


def tar_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _write_tars(root: Path, train: dict, val: dict) -> None:
    classes = sorted({stem.partition("_")[0] for stem in train})
    inner = {
        f"{name}.tar": tar_of({f"{stem}.JPEG": data for stem, data in train.items() if stem.startswith(name)})
        for name in classes
    }
    _write(root / "ILSVRC2012_img_train.tar", tar_of(inner))
    _write(root / "ILSVRC2012_img_val.tar", tar_of({f"{stem}.JPEG": data for stem, (_, data) in val.items()}))


def _write_webdataset(root: Path, train: dict, val: dict) -> None:
    stems = list(train)
    for shard in range(2):
        members = {}
        for number, stem in enumerate(stems[shard::2]):
            members |= {f"{stem}.jpg": train[stem], f"{stem}.cls": str(number).encode()}
        _write(root / f"imagenet-train-{shard:04d}.tar", tar_of(members))
    _write(root / "imagenet-val-0000.tar", tar_of({f"{stem}.jpg": data for stem, (_, data) in val.items()}))


def _write_lists(root: Path, size: int, categories: list[str], train: dict, val: dict) -> None:
    lists, archive = root / "lists", root / "annotations" / f"ImageNetS{size}"
    _write(lists / "categories" / f"ImageNetS_categories_im{size}.txt", "\n".join(categories).encode())
    merged = {MERGED: MERGES[MERGED]} if size == SUBSETS[-1] else {}
    there = [stem for stem in train if merged.get(name := stem.partition("_")[0], name) in categories]
    semi, seen = [], set()
    for stem in there:
        name = stem.partition("_")[0]
        if name not in seen:
            seen.add(name)
            semi.append(f"{merged.get(name, name)}/{stem}")
    _write_masks(archive / "train-semi-segmentation", semi, categories)
    pairs = "\n".join(f"{name}.JPEG {name}.png" for name in semi)
    _write(lists / "names" / f"ImageNetSemi_im{size}_train.txt", pairs.encode())
    # Relabelled images: the benchmark has each under the next category.
    moves = []
    for stem, (folder, _) in val.items():
        if folder in categories:
            moves.append((f"{folder}/{stem}", f"{categories[(categories.index(folder) + 1) % size]}/{stem}"))
    _write_masks(archive / "validation-segmentation", [after for _, after in moves[::2]], categories)
    for split, chosen in (("validation", moves[::2]), ("test", moves[1::2])):
        text = "\n".join(f"{before}.JPEG {after}.JPEG" for before, after in chosen)
        _write(lists / "mapping" / f"ImageNetS_im{size}_mapping_{split}.txt", text.encode())


def _write_masks(folder: Path, names: list[str], categories: list[str]) -> None:
    for name in names:
        ids = np.zeros((30, 40), np.uint16)
        ids[5:20, 8:30] = categories.index(name.partition("/")[0]) + 1
        _write(folder / f"{name}.png", masks.encode(ids))


@pytest.fixture(scope="session")
def look_alike(tmp_path_factory: pytest.TempPathFactory) -> LookAlike:
    """Return a look-alike of everything that ImageNet-S is made of; not to be changed."""
    return make_look_alike(tmp_path_factory.mktemp("imagenet"))
