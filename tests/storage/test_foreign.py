"""Shards written by the webdataset package, indexed and used in place."""

import io
from pathlib import Path

import numpy as np
import pytest
import webdataset
from fixtures_shards import jpeg, mask_ids
from PIL import Image

from luss_ray.core.errors import UserError
from luss_ray.imagenet_s import masks
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.foreign import IndexSettings, index_shards
from luss_ray.storage.uri import Location
from luss_ray.storage.verify import verify

BOTH = IndexSettings(patterns={"validation": "val-*.tar", "train": "train-*.tar"})


def png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)).save(out, "WEBP")
    return out.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> dict[str, bytes]:
    """Write three shards for training and one for validation; return the images by key."""
    written: dict[str, bytes] = {}
    (tmp_path / "shards").mkdir()
    for shard in range(4):
        name = "val-000000.tar" if shard == 3 else f"train-{shard:06d}.tar"
        with webdataset.TarWriter(str(tmp_path / "shards" / name), encoder=False) as out:
            for i in range(5):
                key, seed = f"{shard}_{i}", 10 * shard + i
                kind, data = ("webp", png(seed)) if i == 4 else ("jpeg", jpeg(seed))
                sample = {"__key__": key, kind: data, "cls": str(i % 3).encode(), "json": b"{}"}
                out.write(sample | ({"mask.png": masks.encode(mask_ids(1))} if shard == 3 and i < 4 else {}))
                written[key] = data
    return written


def test_every_sample_is_read_in_place(images: dict[str, bytes], tmp_path: Path) -> None:
    location = Location.parse(tmp_path / "shards")
    before = {path: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    told = []
    manifest = index_shards(location, BOTH, name="theirs", on_shard=lambda done, total: told.append((done, total)))
    assert told == [(n, 4) for n in range(1, 5)]
    assert {path: path.read_bytes() for path in before} == before
    data = ShardedDataset.open(location)
    assert data.categories == ("0", "1", "2") and data.digest == manifest.digest
    assert manifest.splits["train"]["images"] == 15 and manifest.splits["validation"]["masks"] == 4
    for name in ("train", "validation"):
        split = data.split(name)
        for row, image in enumerate(split.read_images(range(len(split)))):
            assert image == images[split.key(row)]
            assert split.class_ids[row] == int(split.key(row)[-1]) % 3 + 1
    assert [problem for _, problems in verify(data) for problem in problems] == []
    assert index_shards(location, BOTH, name="theirs").digest == manifest.digest


@pytest.mark.usefixtures("images")
def test_categories_by_name_and_by_folder(tmp_path: Path) -> None:
    location = Location.parse(tmp_path / "shards")
    with pytest.raises(UserError, match="says 2, but there are 2 names"):
        index_shards(location, IndexSettings(patterns={"train": "*.tar"}, categories=("a", "b")), name="x")
    named = IndexSettings(patterns={"train": "*.tar"}, categories=("a", "b", "c"))
    assert index_shards(location, named, name="x").categories == ("a", "b", "c")
    other = Location.parse(tmp_path / "folders")
    (tmp_path / "folders").mkdir()
    with webdataset.TarWriter(str(tmp_path / "folders" / "0.tar"), encoder=False) as out:
        for key in ("dog/1", "cat/1", "dog/2"):
            out.write({"__key__": key, "jpg": jpeg(1)})
    assert index_shards(other, IndexSettings(patterns={"train": "*.tar"}), name="x").categories == ("cat", "dog")
    assert ShardedDataset.open(other).split("train").class_ids.tolist() == [2, 1, 2]


def test_keys_of_tar_and_masks_that_are_cut_short(tmp_path: Path) -> None:
    location, mask = Location.parse(tmp_path), masks.encode(mask_ids(1))
    with webdataset.TarWriter(str(tmp_path / "0.tar"), encoder=False) as out:
        for key, data in (("./1", mask), ("./2", mask[: len(mask) // 2])):
            out.write({"__key__": key, "jpg": jpeg(1), "mask.png": data})
    manifest = index_shards(location, IndexSettings(patterns={"train": "*.tar"}), name="x")
    assert manifest.categories == ()
    (bad,) = manifest.quarantined
    assert bad["file"].endswith("0.tar#./2") and "mask" in bad["reason"]


def test_an_index_left_by_something_else_is_in_the_way(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "0.tar"), encoder=False) as out:
        out.write({"__key__": "1", "jpg": jpeg(1)})
    (tmp_path / "index.parquet").write_bytes(b"of another indexing that was interrupted")
    settings = IndexSettings(patterns={"train": "*.tar"})
    with pytest.raises(UserError, match=r"holds another dataset.*delete"):
        index_shards(Location.parse(tmp_path), settings, name="x")
    assert not (tmp_path / "manifest.json").exists()
    (tmp_path / "index.parquet").unlink()
    assert index_shards(Location.parse(tmp_path), settings, name="x").splits["train"]["images"] == 1


@pytest.mark.usefixtures("images")
def test_bad_samples_are_left_out_up_to_a_limit_and_wrong_tars_are_one_line(tmp_path: Path) -> None:
    location = Location.parse(tmp_path / "shards")
    with webdataset.TarWriter(str(tmp_path / "shards" / "train-9.tar"), encoder=False) as out:
        out.write({"__key__": "no image", "txt": b"words"})
        out.write({"__key__": "broken", "jpg": b"not a JPEG"})
        out.write({"__key__": "good", "jpg": jpeg(3), "cls": b"0"})
    strict = IndexSettings(patterns={"train": "train-*.tar"}, max_bad_samples=1)
    with pytest.raises(UserError, match="2 samples can't be used, 16 can, 1 are tolerated"):
        index_shards(location, strict, name="x")
    manifest = index_shards(location, IndexSettings(patterns={"train": "train-*.tar"}), name="x")
    assert [bad["file"].rpartition("#")[2] for bad in manifest.quarantined] == ["no image", "broken"]
    assert manifest.splits["train"]["images"] == 16
    with pytest.raises(UserError, match="holds another dataset"):
        index_shards(location, BOTH, name="x")
    with pytest.raises(UserError, match=r"test-\* matches none of its 5"):
        index_shards(location, IndexSettings(patterns={"test": "test-*"}), name="x")
    (tmp_path / "shards" / "train-8.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"train-8.tar: not a complete tar"):
        index_shards(location, BOTH, name="x")
    with webdataset.TarWriter(str(tmp_path / "shards" / "train-8.tar"), encoder=False) as out:
        for _ in range(2):
            out.write({"__key__": "same", "jpg": jpeg(1)})
    with pytest.raises(UserError, match=r"train-8.tar: same.jpg is in it twice"):
        index_shards(location, BOTH, name="x")
