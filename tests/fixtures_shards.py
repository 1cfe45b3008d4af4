"""Small folders of images in ImageNet-S layout, and places (local and S3) to pack them to."""

import io
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from luss_ray.core.seeds import generator
from luss_ray.imagenet_s import masks
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location

CATEGORIES = ("bird", "cat", "fish")


def jpeg(seed: int, width: int = 40, height: int = 30) -> bytes:
    """Return a noisy JPEG."""
    return _encoded(generator(seed).integers(0, 255, (height, width, 3), dtype=np.uint8), "JPEG")


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def mask_ids(category_id: int, width: int = 40, height: int = 30) -> np.ndarray:
    """Return a mask with a rectangle of the category, and a line of ignored pixels."""
    ids = np.zeros((height, width), np.uint16)
    ids[5:20, 8:30], ids[5, 8:30] = category_id, masks.IGNORE
    return ids


@pytest.fixture
def make_layout(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a folder in ImageNet-S layout and returns it."""

    def make(num_train: int = 8, num_validation: int = 2, name: str = "source") -> Path:
        root = tmp_path / name
        for number, category in enumerate(CATEGORIES, 1):
            for split, count in (("train", num_train), ("validation", num_validation)):
                (root / split / category).mkdir(parents=True)
                for i in range(count):
                    path = root / split / category / f"{category}_{i}.JPEG"
                    path.write_bytes(jpeg(1000 * number + i + 500 * (split == "train")))
            folder = root / "validation-segmentation" / category
            folder.mkdir(parents=True)
            for i in range(num_validation):
                (folder / f"{category}_{i}.png").write_bytes(masks.encode(mask_ids(number)))
        return root

    return make


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """Return an empty location: a local folder, then an S3 bucket with a prefix."""
    if request.param == "local":
        return Location.parse(tmp_path / "place")
    server = request.getfixturevalue("s3_environment")
    return Location.parse(server.bucket(f"test-{uuid.uuid4().hex[:12]}") + "/some/prefix")


@pytest.fixture
def packed(make_layout: Callable[..., Path], tmp_path: Path) -> ShardedDataset:
    """Return a dataset of 24 + 6 images on local disk, at most 10 in a shard."""
    from luss_ray.imagenet_s.layout import find_images
    from luss_ray.storage.pack import pack
    from luss_ray.storage.pack_plan import PackSettings

    location = Location.parse(tmp_path / "packed")
    pack(find_images(make_layout()), location, PackSettings(images_per_shard=10))
    return ShardedDataset.open(location)
