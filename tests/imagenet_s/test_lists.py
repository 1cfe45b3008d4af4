import os
import shutil
from pathlib import Path

import pytest

from luss_ray.core.errors import UserError
from luss_ray.imagenet_s.lists import MERGES, PUBLISHED, SUBSETS, read_subset
from luss_ray.stages.prepare import Preparation, check
from luss_ray.storage.imagenet import ImageNet, Place
from luss_ray.storage.pack_plan import PackSettings
from luss_ray.storage.uri import Location


@pytest.fixture
def lists(look_alike, tmp_path: Path) -> Path:
    return shutil.copytree(look_alike.root / "lists", tmp_path / "lists")


@pytest.fixture(scope="session")
def published_lists() -> Path:
    """Return the benchmark's own lists, which are not part of this project."""
    folder = Path(os.environ.get("LUSS_RAY_LISTS", Path(__file__).parents[3] / "shared" / "imagenet_s"))
    if not folder.is_dir():
        pytest.skip(f"no lists of the benchmark at {folder} (set LUSS_RAY_LISTS to their folder)")
    return folder


def test_categories_have_ids_in_their_order_and_merges_are_those_of_919(lists):
    small, large = read_subset(lists, 50), read_subset(lists, 919)
    assert list(small.ids.values()) == list(range(1, 51)) and small.name == "imagenet-s-50"
    merged, target = next((a, b) for a, b in MERGES.items() if b in large.ids)
    assert large.category(merged) == target and large.category(target) == target
    assert small.category(merged) is None and small.category("n99999999") is None


def test_source_and_destination_are_kept_apart(lists):
    subset = read_subset(lists, 50)
    image = subset.validation[0]
    assert image.source != image.category and image.stem.startswith("ILSVRC2012_val_")
    assert all(image.stem.startswith(image.source) for image in subset.train_semi)


def test_a_folder_around_the_lists_will_do(lists, tmp_path):
    (tmp_path / "repository").mkdir()
    lists.rename(tmp_path / "repository" / "data")
    assert read_subset(tmp_path / "repository", 300).size == 300


def test_a_missing_test_list_is_not_an_error_but_others_are(lists):
    (lists / "mapping" / "ImageNetS_im50_mapping_test.txt").unlink()
    assert read_subset(lists, 50).test is None
    (lists / "mapping" / "ImageNetS_im50_mapping_validation.txt").unlink()
    with pytest.raises(UserError, match=r"im50_mapping_validation\.txt"):
        read_subset(lists, 50)


def test_wrong_lines_are_named(lists):
    file = lists / "mapping" / "ImageNetS_im50_mapping_validation.txt"
    good = file.read_text().splitlines()
    stray = "ILSVRC2012_val_99999999.JPEG"
    for line, expected in (
        ("a/b.JPEG", "line 1: 2 words are wanted"),
        ("a/b.JPEG a/c.JPEG", "line 1: a/b.JPEG and a/c.JPEG are no pair"),
        (good[1], "are no pair"),
        (f"n01/{stray} n99/{stray}", "into n99, which is no category"),
    ):
        file.write_text("\n".join([line, *good[1:]]))
        with pytest.raises(UserError, match=expected):
            read_subset(lists, 50)
    (lists / "categories" / "ImageNetS_categories_im50.txt").write_text("n01\nn02")
    with pytest.raises(UserError, match="has 2 categories, not 50"):
        read_subset(lists, 50)


@pytest.mark.parametrize("size", SUBSETS)
def test_the_published_counts_follow_from_the_published_lists(published_lists, size):
    subset = read_subset(published_lists, size)
    counts = {"train-semi": subset.train_semi, "validation": subset.validation, "test": subset.test or ()}
    assert {name: len(images) for name, images in counts.items()} == {name: PUBLISHED[size][name] for name in counts}
    others = [read_subset(published_lists, larger) for larger in SUBSETS if larger > size]
    assert all(subset.ids.keys() <= other.ids.keys() for other in others)


def test_placeholder_images_of_the_published_lists_fall_short_in_training_images_alone(published_lists, tmp_path):
    """Every image and mask that the lists name, as empty files: all are found, in the published numbers."""
    subsets = {size: read_subset(published_lists, size) for size in SUBSETS}
    places, annotations = [], {}
    for size, subset in subsets.items():
        annotations[size] = Location.parse(tmp_path / str(size))
        for split, images in (("train-semi", subset.train_semi), ("validation", subset.validation)):
            for image in images:
                mask = tmp_path / str(size) / f"{split}-segmentation" / image.category / f"{image.stem}.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                mask.touch()
        named = (*subset.train_semi, *subset.validation, *(subset.test or ()))
        places += [Place(image.stem, f"{image.stem}.JPEG", 0, -1) for image in named]
    given = Preparation(
        imagenet=ImageNet.of(Location.parse(tmp_path), places),
        subsets=subsets,
        annotations=annotations,
        out=Location.parse(tmp_path / "out"),
        settings=PackSettings(),
        incomplete=True,
    )
    lines = check(given)
    assert len(lines) == len(SUBSETS)
    for size, line in zip(SUBSETS, lines, strict=True):
        assert line.startswith(f"S{size}: ")
        assert f"images of train, the published number is {PUBLISHED[size]['train']}" in line
