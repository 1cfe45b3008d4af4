import dataclasses

import pytest

from luss_ray.storage.dataset import ShardedDataset
from luss_ray.storage.verify import verify


def found(dataset: ShardedDataset) -> tuple[int, list[str]]:
    results = list(verify(dataset))
    return sum(number for number, _ in results), [str(problem) for _, problems in results for problem in problems]


def test_a_good_dataset_has_no_problems(packed):
    assert found(packed) == (30, [])


def test_a_changed_byte_is_found_and_its_sample_named(packed):
    train = packed.split("train")
    shard = packed.location.child("train/000001.tar").local_path
    data = bytearray(shard.read_bytes())
    start = int(train.image_offsets[12])
    data[start : start + int(train.image_bytes[12])] = bytes(int(train.image_bytes[12]))
    shard.write_bytes(data)
    number, problems = found(packed)
    assert number == 30
    assert len(problems) == 2
    assert problems[0] == f"{shard}: its SHA-256 is not the one in the manifest"
    assert problems[1] == f"{shard}#{train.key(12)}: not an image"


def test_a_cut_shard_names_every_lost_sample(packed):
    train = packed.split("train")
    shard = packed.location.child("train/000001.tar").local_path
    shard.write_bytes(shard.read_bytes()[: int(train.image_offsets[17])])
    _, problems = found(packed)
    assert any("bytes, not" in problem for problem in problems)
    assert any("not a complete tar" in problem for problem in problems)
    for row in (17, 18, 19):
        assert f"{shard}#{train.key(row)}: empty file" in problems


def test_a_missing_shard_is_found(packed):
    packed.location.delete("train/000002.tar")
    assert found(packed) == (30, [f"{packed.location.uri}/train/000002.tar: it is missing"])


@pytest.mark.parametrize("field", ["digest", "splits", "shards"])
def test_a_manifest_that_does_not_fit_is_found(packed, field):
    manifest = packed.manifest
    shard = {**manifest.shards["train/000000.tar"], "samples": 9}
    changed = {
        "digest": {"digest": "0" * 64},
        "splits": {"splits": {**manifest.splits, "train": {**manifest.splits["train"], "images": 25}}},
        "shards": {"shards": {**manifest.shards, "train/000000.tar": shard}},
    }[field]
    dataset = ShardedDataset(packed.location, dataclasses.replace(manifest, **changed))
    assert len(found(dataset)[1]) == 1
