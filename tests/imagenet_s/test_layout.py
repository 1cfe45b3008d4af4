import shutil

import numpy as np
import pytest
from fixtures_shards import CATEGORIES, jpeg

from luss_ray.core.errors import UserError
from luss_ray.imagenet_s.layout import find_images


def test_splits_categories_and_masks_are_found(make_layout):
    root = make_layout(num_train=3, num_validation=2)
    (root / "train" / "cat" / "Thumbs.db").write_bytes(b"")
    (root / "train" / ".hidden").mkdir()
    source = find_images(root)
    assert source.categories == CATEGORIES
    assert source.num_ignored == 1
    assert source.num_images == 15
    train, validation = source.splits
    assert (train.name, validation.name) == ("train", "validation")
    assert train.keys[:4] == ["bird/bird_0", "bird/bird_1", "bird/bird_2", "cat/cat_0"]
    assert train.class_ids.tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert set(train.masks) == {""}
    assert validation.masks[0] == "validation-segmentation/bird/bird_0.png"
    images = [(root / path).stat().st_size for path in validation.images]
    masks = [(root / path).stat().st_size for path in validation.masks]
    assert np.array_equal(validation.sizes, np.add(images, masks))


def test_categories_txt_gives_the_ids(make_layout):
    root = make_layout()
    (root / "categories.txt").write_text("fish\nbird\n\ncat")
    source = find_images(root)
    assert source.categories == ("fish", "bird", "cat")
    assert source.splits[0].class_ids[source.splits[0].keys.index("cat/cat_0")] == 3


def test_semi_and_test_splits_are_found(make_layout):
    root = make_layout()
    shutil.copytree(root / "validation", root / "train-semi")
    shutil.copytree(root / "validation-segmentation", root / "train-semi-segmentation")
    (root / "test").mkdir()
    (root / "test" / "x.jpg").write_bytes(jpeg(0))
    source = find_images(root)
    assert [split.name for split in source.splits] == ["train", "train-semi", "validation", "test"]
    assert all(source.splits[1].masks)
    assert (source.splits[3].keys, source.splits[3].class_ids.tolist()) == (["x"], [0])


def test_a_plain_folder_is_one_unlabelled_split(tmp_path):
    (tmp_path / "2024" / "July.trip").mkdir(parents=True)
    for name in ("a.JPG", "a.png", "2024/b.v1.webp", "2024/July.trip/c.tiff", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    source = find_images(tmp_path)
    (train,) = source.splits
    assert train.name == "train"
    assert train.keys == ["2024/July.trip/c", "2024/b_v1", "a", "a_"]
    assert train.class_ids.tolist() == [0, 0, 0, 0]
    assert source.categories == ()
    assert source.num_ignored == 1


def test_class_folders_may_be_links(make_layout, tmp_path):
    root = make_layout()
    (root / "train" / "cat").rename(tmp_path / "elsewhere")
    (root / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    assert find_images(root).num_images == 30


def break_layout(root, how):
    if how == "missing":
        shutil.rmtree(root)
    elif how == "empty":
        shutil.rmtree(root)
        root.mkdir()
    elif how == "empty_category":
        (root / "train" / "dog").mkdir()
    elif how == "listed_category":
        (root / "categories.txt").write_text("bird\ncat\nfish\ndog\neel\n")
    elif how == "unlisted_category":
        (root / "categories.txt").write_text("bird\ncat\n")
    elif how == "twice":
        (root / "categories.txt").write_text("bird\ncat\nfish\ncat\n")
    elif how == "mask":
        (root / "validation" / "cat" / "cat_1.JPEG").unlink()
    elif how == "no_train":
        shutil.rmtree(root / "train")
    elif how == "empty_train":
        shutil.rmtree(root / "train")
        (root / "train").mkdir()
        shutil.rmtree(root / "validation")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("missing", "is not a folder"),
        ("empty", "no images in"),
        ("empty_category", "category dog has no images"),
        ("listed_category", r"category dog \(and 1 more\) has no images"),
        ("unlisted_category", "class folder fish is not in"),
        ("twice", "names a category twice"),
        ("mask", "the mask validation-segmentation/cat/cat_1.png has no image"),
        ("no_train", "no folder train"),
        ("empty_train", "no images in"),
    ],
)
def test_a_wrong_folder_is_told_in_one_line(make_layout, how, expected):
    root = make_layout()
    break_layout(root, how)
    with pytest.raises(UserError, match=expected) as caught:
        find_images(root)
    assert "\n" not in str(caught.value)
