import json
import multiprocessing
import pickle

import numpy as np
import pytest
import webdataset
from fixtures_shards import CATEGORIES, mask_ids

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.imagenet_s import masks
from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.uri import Location


def test_samples_are_the_source_s_bytes_in_pack_order(packed, tmp_path):
    train = packed.split("train")
    assert packed.splits == ("train", "validation")
    assert packed.categories == CATEGORIES
    assert len(train) == 24
    assert train.shards == ["train/000000.tar", "train/000001.tar", "train/000002.tar"]
    assert [len(train.shard_rows(number)) for number in range(3)] == [10, 10, 4]
    assert np.array_equal(np.concatenate([train.shard_rows(number) for number in range(3)]), np.arange(24))
    rows = [23, 0, 11, 10, 0]
    for row, image in zip(rows, train.read_images(rows), strict=True):
        assert image == (tmp_path / "source" / "train" / f"{train.key(row)}.JPEG").read_bytes()
        assert CATEGORIES[train.class_ids[row] - 1] == train.key(row).split("/")[0]
    assert set(train.formats.to_pylist()) == {"jpg"}
    assert not np.all(np.diff(train.class_ids) >= 0), "pack order is shuffled"
    assert train.read_masks([0, 1]) == [None, None]
    assert not train.has_masks


def test_masks_come_with_their_images(packed):
    validation = packed.split("validation")
    assert validation.has_masks
    rows = np.arange(len(validation))
    for row, mask in zip(rows, validation.read_masks(rows), strict=True):
        assert mask is not None
        assert np.array_equal(masks.decode(mask), mask_ids(validation.class_ids[row]))
        assert (validation.heights[row], validation.widths[row]) == (30, 40)


def test_webdataset_reads_the_shards_and_decodes_them(packed):
    validation = packed.split("validation")
    urls = [str(packed.location.child(shard).local_path) for shard in validation.shards]
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in read] == validation.keys.to_pylist()
    for row, sample in enumerate(read):
        assert sample["jpg"].shape == (30, 40, 3)
        assert sample["cls"] == validation.class_ids[row] - 1
        assert sample["mask.png"].shape == (30, 40, 3)


def test_errors_name_shard_and_key(packed):
    train = packed.split("train")
    shard = packed.location.child("train/000001.tar").local_path
    shard.write_bytes(shard.read_bytes()[: int(train.image_offsets[14])])
    items = train.try_read_images(np.arange(24))
    bad = [row for row, item in enumerate(items) if isinstance(item, BadSampleError)]
    assert bad == [14, 15, 16, 17, 18, 19]
    with pytest.raises(BadSampleError) as caught:
        train.read_images([3, 14])
    assert (
        (caught.value.shard, caught.value.key)
        == (shard.as_posix(), train.key(14))
        == (
            train.shard_uri(14),
            train.key(14),
        )
    )


def _key_in_process(split, queue) -> None:
    queue.put((len(split), split.key(5), split.read_images([5])))


def test_splits_travel_by_name_and_are_read_again_where_they_arrive(packed):
    train = packed.split("train")
    assert len(pickle.dumps(train)) < 500
    assert len(pickle.dumps(packed)) < 500
    assert pickle.loads(pickle.dumps(packed)).digest == packed.digest
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_key_in_process, args=(train, queue))
    process.start()
    assert queue.get(timeout=60) == (24, train.key(5), train.read_images([5]))
    process.join()


def test_a_dataset_replaced_while_in_use_is_noticed(packed):
    data = pickle.dumps(packed)
    manifest = packed.location.read_json("manifest.json")
    packed.location.write_json("manifest.json", {**manifest, "digest": "0" * 64})
    with pytest.raises(UserError, match="was replaced while in use"):
        pickle.loads(data)


def test_what_is_no_dataset_is_said_to_be_none(packed, tmp_path):
    with pytest.raises(UserError, match=r"no dataset at .*shards/build.py"):
        ShardedDataset.open(Location.parse(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="has no split 'test'; it has train, validation"):
        packed.split("test")
    manifest = packed.location.child("manifest.json").local_path
    manifest.write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="has format 99"):
        ShardedDataset.open(packed.location)
    manifest.write_text("[]")
    with pytest.raises(UserError, match="is not the manifest"):
        ShardedDataset.open(packed.location)


def test_an_index_of_another_packing_is_refused(packed):
    other = ShardedDataset.open(packed.location)
    packed.location.write("index.parquet", b"something else")
    with pytest.raises(UserError, match="is not the index its manifest speaks of"):
        other.split("train")
