"""Folders of images that are packed on the spot."""

from pathlib import Path

import pytest
from fixtures_shards import jpeg

from luss_ray.config.recipes import own_images
from luss_ray.core.errors import UserError
from luss_ray.protocols.datasets import NotPackedError, open_dataset
from luss_ray.storage.uri import Location


def test_a_folder_that_has_grown_is_another_dataset_and_the_first_one_stays(tmp_path: Path) -> None:
    photos, storage = tmp_path / "photos", Location.parse(tmp_path / "runs")
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.jpg").write_bytes(jpeg(number))
    first = open_dataset(str(photos), own_images(), storage, None)
    assert open_dataset(str(photos), own_images(), storage, None, dry=True).location == first.location
    (photos / "3.jpg").write_bytes(jpeg(3))
    with pytest.raises(NotPackedError):
        open_dataset(str(photos), own_images(), storage, None, dry=True)
    second = open_dataset(str(photos), own_images(), storage, None)
    assert [len(data.split("train")) for data in (first, second)] == [3, 4]
    with pytest.raises(UserError, match="neither a dataset nor a folder"):
        open_dataset(str(photos / "3.jpg"), own_images(), storage, None)
