"""A demo dataset on disk: layout, masks, determinism."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from luss_ray.core.errors import UserError
from luss_ray.demo.build import build
from luss_ray.demo.compose import category_of, scene
from luss_ray.demo.variants import DEMO
from luss_ray.imagenet_s import masks
from luss_ray.imagenet_s.layout import find_images

TINY = replace(DEMO, side_px=48, num_train=40, num_validation=23, num_train_semi=2)
NUM = len(TINY.categories)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("demo"), variant=TINY, seed=5, num_test=10)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_arguments_same_bytes(folder: Path, tmp_path: Path):
    assert digests(build(tmp_path / "again", variant=TINY, seed=5, num_test=10)) == digests(folder)


def test_another_seed_gives_other_scenes_under_the_same_names(folder: Path, tmp_path: Path):
    other = digests(build(tmp_path / "other", variant=TINY, seed=6, num_test=10))
    assert other.keys() == digests(folder).keys()
    same = [name for name, digest in digests(folder).items() if other[name] == digest]
    assert same == ["categories.txt"]


def test_it_is_read_as_imagenet_s(folder: Path):
    source = find_images(folder)
    assert source.categories == TINY.categories and source.num_ignored == 0
    splits = {split.name: split for split in source.splits}
    counts = {name: (len(split.images), sum(map(bool, split.masks))) for name, split in splits.items()}
    assert (
        counts["train"] == (40, 0) and counts["validation"] == (23, 23) and counts["train-semi"] == (2 * NUM, 2 * NUM)
    )
    assert counts["test"][0] == 10
    for split in splits.values():
        for image, class_id in zip(split.images, split.class_ids, strict=True):
            assert TINY.categories[class_id - 1] == Path(image).parent.name


def test_categories_are_balanced(folder: Path):
    per_category = [len(list((folder / "train" / name).iterdir())) for name in TINY.categories]
    assert max(per_category) - min(per_category) <= 1


def test_files_hold_the_scenes(folder: Path):
    for path in sorted((folder / "validation-segmentation").rglob("*.png"))[:NUM]:
        index = int(path.stem.rsplit("_", 1)[1])
        image, mask = scene(5, "validation", index, TINY)
        assert path.parent.name == TINY.categories[category_of(index, TINY) - 1]
        assert np.array_equal(masks.decode(path.read_bytes()), mask)
        with Image.open(folder / "validation" / path.parent.name / f"{path.stem}.jpg") as jpeg:
            stored = np.asarray(jpeg)
        assert stored.shape == image.shape
        assert np.abs(stored.astype(float).mean((0, 1)) - image.mean((0, 1))).max() < 2  # red is red
        assert np.abs(stored.astype(float) - image).mean() < 8  # JPEG is lossy


def test_masks_of_a_folder_hold_its_category_only(folder: Path):
    for part in ("validation-segmentation", "train-semi-segmentation", "test-segmentation"):
        for category, name in enumerate(TINY.categories, 1):
            for path in (folder / part / name).iterdir():
                ids = set(np.unique(masks.decode(path.read_bytes())))
                assert category in ids and ids <= {masks.OTHER, category, masks.IGNORE}


def test_train_semi_repeats_train_images(folder: Path):
    semi = sorted((folder / "train-semi").rglob("*.jpg"))
    assert len(semi) == 2 * NUM
    for path in semi:
        assert path.read_bytes() == (folder / "train" / path.parent.name / path.name).read_bytes()


def test_numbers_given_replace_the_variants(tmp_path: Path):
    out = build(tmp_path, variant=TINY, num_train=NUM, num_validation=NUM)
    assert len(list((out / "train").rglob("*.jpg"))) == NUM == len(list((out / "validation").rglob("*.jpg")))
    assert not (out / "test").exists()


def test_more_images_keep_those_there_were(folder: Path, tmp_path: Path):
    more = digests(build(tmp_path, variant=TINY, seed=5, num_train=60, num_test=10))
    assert digests(folder).items() <= more.items()


def test_progress_ends_at_the_number_of_scenes(tmp_path: Path):
    seen = []
    build(tmp_path, variant=TINY, num_train=110, num_validation=20, progress=lambda *done: seen.append(done))
    assert seen == [(100, 130), (130, 130)]


def test_an_unknown_variant_names_the_known_ones(tmp_path: Path):
    with pytest.raises(UserError, match=r"'demo-easy'.*demo, demo-hard"):
        build(tmp_path, variant="demo-easy")
