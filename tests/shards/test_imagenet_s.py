"""shards/imagenet_s.py on a look-alike of ImageNet-1k in all its forms."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures_imagenet import MERGED

from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.lists import MERGES
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location

_ROOT = Path(__file__).parents[2]
EXPECTED = {
    50: {"train": 8, "train-semi": 4, "validation": 2, "test": 2},
    300: {"train": 12, "train-semi": 6, "validation": 3, "test": 3},
    919: {"train": 20, "train-semi": 10, "validation": 5, "test": 4, "train-full": 24},
}


def program(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, _ROOT / "shards" / f"{name}.py", *map(str, arguments)],
        env={**environment, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def prepare(look_alike, form: str, out: object, *options: object) -> subprocess.CompletedProcess[str]:
    root = look_alike.root
    sources = ("--imagenet", root / form, "--lists", root / "lists", "--annotations", root / "annotations")
    return program("imagenet_s", *sources, "--out", out, "--images-per-shard", 5, "--log", f"{out}.log", *options)


def dataset(out: Path, size: int) -> ShardedDataset:
    return ShardedDataset.open(Location.parse(out / f"imagenet-s-{size}"))


def counts(data: ShardedDataset) -> dict[str, int]:
    return {split: len(data.split(split)) for split in data.splits}


@pytest.fixture(scope="module")
def prepared(look_alike, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return all subsets, prepared from the original tars."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    done = prepare(look_alike, "tars", out, "--subset", "all", "--incomplete")
    assert done.returncode == 0, done.stderr
    assert "the published number is 64431" in done.stdout
    return out


def test_counts_masks_and_merges(prepared: Path, look_alike) -> None:
    for size, expected in EXPECTED.items():
        data = dataset(prepared, size)
        assert counts(data) == expected and len(data.categories) == size
        for split in ("train-semi", "validation"):
            part = data.split(split)
            for row, mask in enumerate(part.read_masks(range(len(part)))):
                assert mask is not None
                assert set(np.unique(masks.decode(mask))) == {0, part.class_ids[row]}
                assert data.categories[part.class_ids[row] - 1] == part.key(row).partition("/")[0]
    train = dataset(prepared, 919).split("train")
    merged = [row for row in range(len(train)) if MERGED in train.key(row)]
    assert {train.key(row).partition("/")[0] for row in merged} == {MERGES[MERGED]} and len(merged) == 2
    for row, data in enumerate(train.read_images(range(len(train)))):
        assert data == look_alike.train[train.key(row).partition("/")[2]]


def test_relabelled_images_keep_their_source_and_get_their_destination(prepared: Path, look_alike) -> None:
    split = dataset(prepared, 50).split("validation")
    for row, data in enumerate(split.read_images(range(len(split)))):
        folder, _, stem = split.key(row).partition("/")
        assert data == look_alike.val[stem][1] and folder != look_alike.val[stem][0]


def test_training_images_are_packed_once_and_everything_verifies(prepared: Path) -> None:
    packs = sorted(path.name for path in (prepared / "packs").iterdir())
    assert packs == ["labelled-300", "labelled-50", "labelled-919", "train-1000", "train-300", "train-50", "train-919"]
    small, large = dataset(prepared, 50).split("train"), dataset(prepared, 919).split("train")
    assert set(small.shards) < set(large.shards)
    assert [path.name for path in (prepared / "imagenet-s-50").iterdir() if path.is_dir()] == []
    for size in EXPECTED:
        verified = program("verify", prepared / f"imagenet-s-{size}")
        assert verified.returncode == 0 and "all good" in verified.stdout, verified.stdout


def test_other_forms_give_the_same_images_and_the_next_subset_adds_its_own(
    look_alike, prepared: Path, tmp_path
) -> None:
    for form, subsets in (("folders", ("300",)), ("webdataset", ("50", "300"))):
        out = tmp_path / form
        for subset in subsets:
            done = prepare(look_alike, form, out, "--subset", subset, "--incomplete")
            assert done.returncode == 0, done.stderr
        assert not (out / "packs" / "train-919").exists()
        for subset in subsets:
            assert dataset(out, int(subset)).digest == dataset(prepared, int(subset)).digest


def test_the_same_command_again_changes_nothing(look_alike, prepared: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.is_file()}
    assert prepare(look_alike, "tars", prepared, "--subset", "all", "--incomplete").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.is_file()} == before


def test_a_copy_shares_nothing(look_alike, tmp_path: Path) -> None:
    done = prepare(look_alike, "folders", tmp_path / "out", "--subset", "300", "--copy", "--incomplete")
    assert done.returncode == 0, done.stderr
    (tmp_path / "out" / "imagenet-s-300").rename(tmp_path / "elsewhere")
    assert counts(ShardedDataset.open(Location.parse(tmp_path / "elsewhere" / "dataset"))) == EXPECTED[300]


def test_what_is_missing_is_named(look_alike, tmp_path: Path) -> None:
    for part in ("folders", "lists", "annotations"):
        shutil.copytree(look_alike.root / part, tmp_path / part)
    changed = type(look_alike)(tmp_path, look_alike.train, look_alike.val)
    strict = prepare(changed, "folders", tmp_path / "out", "--subset", "50")
    assert strict.returncode == 2 and "8 images of train, the published number is 64431" in strict.stderr
    stem = next(iter(look_alike.val))
    next((tmp_path / "folders" / "val").rglob(f"{stem}.JPEG")).unlink()
    mask = next((tmp_path / "annotations" / "ImageNetS50" / "train-semi-segmentation").rglob("*.png"))
    mask.unlink()
    (tmp_path / "lists" / "mapping" / "ImageNetS_im50_mapping_test.txt").unlink()
    strict = prepare(changed, "folders", tmp_path / "out", "--subset", "50")
    assert strict.returncode == 2 and strict.stderr.count("\n") == 1
    assert f"1 images of validation are missing: {stem}" in strict.stderr and mask.name in strict.stderr
    assert not (tmp_path / "out").exists()
    done = prepare(changed, "folders", tmp_path / "out", "--subset", "50", "--incomplete")
    assert done.returncode == 0, done.stderr
    assert "no list of test images" in done.stdout
    assert counts(dataset(tmp_path / "out", 50)) == {"train": 8, "train-semi": 4, "validation": 1}


def test_wrong_places_are_one_line(look_alike, tmp_path: Path) -> None:
    root = look_alike.root
    common = ("--subset", "50", "--out", tmp_path / "out", "--log", tmp_path / "log")
    for imagenet, lists, annotations, expected in (
        ("lists", "lists", "annotations", "holds no ImageNet images"),
        ("folders", "folders", "annotations", "cannot read the list"),
        ("folders", "lists", "lists", "no masks of S50"),
    ):
        places = ("--imagenet", root / imagenet, "--lists", root / lists, "--annotations", root / annotations)
        done = program("imagenet_s", *places, *common)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and expected in done.stderr, done.stderr
