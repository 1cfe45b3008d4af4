import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import webdataset

from luss_ray.core.errors import UserError
from luss_ray.storage.labels import LabelShards


def labels_of(split, shard_number: int, version: int = 0) -> list[bytes | None]:
    """Return a distinct label for each sample, None for the third."""
    rows = split.shard_rows(shard_number)
    return [None if i == 2 else f"{split.key(row)} {version}".encode() for i, row in enumerate(rows)]


def test_labels_are_parallel_to_the_split(packed, place):
    train = packed.split("train")
    labels = LabelShards(place / "pseudo_labels", train)
    assert labels.published() == []
    for number in (2, 0):
        assert labels.publish(number, labels_of(train, number))
    assert labels.published() == [0, 2]
    assert not labels.is_complete
    with pytest.raises(FileNotFoundError, match="000001"):
        labels.read([10])
    assert labels.publish(1, labels_of(train, 1))
    assert labels.is_complete
    rows = [23, 0, 2, 11, 0]
    expected = [None if row % 10 == 2 else f"{train.key(row)} 0".encode() for row in rows]
    assert labels.read(np.array(rows)) == expected
    assert pickle.loads(pickle.dumps(labels)).read(rows) == expected
    assert labels.unlabelled([2, 0]) == [train.sample_uri(22), train.sample_uri(2)]


def test_a_published_shard_stays_as_it_is(packed, place):
    train = packed.split("train")
    labels = LabelShards(place, train)
    assert labels.publish(0, labels_of(train, 0, version=1))
    assert not labels.publish(0, labels_of(train, 0, version=2))
    assert labels.read([0]) == [f"{train.key(0)} 1".encode()]


def test_of_racing_writers_one_publishes_and_all_read_its_labels(packed, place):
    train = packed.split("train")

    def publish(version: int) -> bool:
        return LabelShards(place, train).publish(0, labels_of(train, 0, version))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(publish, range(8))).count(True) == 1
    texts = [label.decode().split() for label in LabelShards(place, train).read(train.shard_rows(0)) if label]
    assert len({version for _, version in texts}) == 1, "all labels are of one writer"
    assert [key for key, _ in texts] == [train.key(row) for row in train.shard_rows(0) if row != 2]


def test_the_next_writer_completes_what_a_dead_one_left(packed, place):
    train = packed.split("train")
    dead = LabelShards(place, train)
    dead.publish(0, labels_of(train, 0, version=1))
    place.delete("train/000000.parquet")  # as if it had died between tar and sidecar
    labels = LabelShards(place, train)
    assert labels.published() == []
    assert labels.publish(0, labels_of(train, 0, version=22))
    assert labels.read([0, 9]) == [f"{train.key(row)} 1".encode() for row in (0, 9)], "index and tar fit together"


def test_a_foreign_or_broken_tar_in_the_way_is_told(packed, place):
    train = packed.split("train")
    place.write("train/000000.tar", b"not a tar" * 100)
    with pytest.raises(UserError, match="not a complete tar"):
        LabelShards(place, train).publish(0, labels_of(train, 0))
    LabelShards(place, train, suffix="png").publish(1, labels_of(train, 1))
    place.delete("train/000001.parquet")
    with pytest.raises(UserError, match="labels of other samples"):
        LabelShards(place, train, suffix="other.png").publish(1, labels_of(train, 1))


def test_the_digest_follows_the_labels(packed, place):
    train = packed.split("train")
    digests = set()
    for version in (0, 0, 1):
        labels = LabelShards(place / f"v{len(digests)}-{version}", train)
        if not labels.is_complete:
            for number in range(3):
                labels.publish(number, labels_of(train, number, version))
        digests.add(labels.digest())
    assert len(digests) == 2


def test_webdataset_reads_label_shards(packed, tmp_path):
    from luss_ray.storage.uri import Location

    train = packed.split("train")
    labels = LabelShards(Location.parse(tmp_path / "labels"), train)
    labels.publish(2, [b"x"] * 4)
    read = list(webdataset.WebDataset(str(tmp_path / "labels/train/000002.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in read] == [train.key(row) for row in train.shard_rows(2)]
    assert all(sample["label.png"] == b"x" for sample in read)
