import io
import shutil
from pathlib import Path

import pytest
from fixtures_imagenet import tar_of

from luss_ray.core.errors import UserError
from luss_ray.storage.imagenet import find_imagenet
from luss_ray.storage.tar import scan_tar
from luss_ray.storage.uri import Location


@pytest.mark.parametrize("form", ["folders", "tars", "webdataset"])
def test_every_form_gives_every_image(look_alike, form):
    found = find_imagenet(Location.parse(look_alike.forms[form]))
    expected = look_alike.train | {stem: data for stem, (_, data) in look_alike.val.items()}
    assert len(found) == len(expected) and found.train_stems() == sorted(look_alike.train)
    for stem, data in expected.items():
        assert stem in found and found.read(stem) == data and data.startswith(found.head(stem))
        assert stem in found.describe(stem)
    assert "n00000000_1" not in found and "n99999999_1" not in found


def test_tars_in_an_object_store_are_read_in_place(look_alike, place):
    for file in look_alike.forms["tars"].iterdir():
        place.write(file.name, file.read_bytes())
    progress = []
    found = find_imagenet(place, lambda done, total: progress.append((done, total)))
    num_classes = len({stem.partition("_")[0] for stem in look_alike.train})
    assert progress[-1] == (2 + num_classes, 2 + num_classes)
    assert [done for done, _ in progress] == sorted({done for done, _ in progress})
    assert all(found.read(stem) == data for stem, data in look_alike.train.items())


def test_a_flat_validation_folder_needs_no_class_table(look_alike, tmp_path):
    shutil.copytree(look_alike.forms["folders"] / "train", tmp_path / "train")
    (tmp_path / "val").mkdir()
    for stem, (_, data) in look_alike.val.items():
        (tmp_path / "val" / f"{stem}.JPEG").write_bytes(data)
    found = find_imagenet(Location.parse(tmp_path))
    assert all(found.read(stem) == data for stem, (_, data) in look_alike.val.items())


def test_an_image_that_is_there_twice_counts_once(look_alike, tmp_path):
    shutil.copytree(look_alike.forms["folders"], tmp_path / "a")
    shutil.copytree(look_alike.forms["tars"], tmp_path / "b")
    assert len(find_imagenet(Location.parse(tmp_path))) == len(look_alike.train) + len(look_alike.val)


def test_what_is_not_imagenet_is_one_error(tmp_path: Path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    (tmp_path / "other.tar").write_bytes(tar_of({"00000.jpg": b"x"}))
    with pytest.raises(UserError, match="2 files, 1 of them tars"):
        find_imagenet(Location.parse(tmp_path))
    (tmp_path / "other.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match=r"other.tar: not a complete tar"):
        find_imagenet(Location.parse(tmp_path))


def test_a_class_tar_that_ends_early_is_one_error(look_alike, tmp_path: Path):
    data = (look_alike.forms["tars"] / "ILSVRC2012_img_train.tar").read_bytes()
    inner = data[scan_tar(io.BytesIO(data))[0].offset :][: scan_tar(io.BytesIO(data))[0].size_bytes]
    (tmp_path / "train.tar").write_bytes(tar_of({"n01000000.tar": inner[: 512 + 100]}))
    with pytest.raises(UserError, match=r"train.tar: not a complete tar"):
        find_imagenet(Location.parse(tmp_path))
