import numpy as np
import pytest

from luss_ray.core.errors import BadSampleError, UserError
from luss_ray.storage.members import read_members
from luss_ray.storage.uri import Location


def read(place, shard_ids, offsets, sizes, versions=None):
    arrays = {"shard_ids": np.array(shard_ids), "offsets": np.array(offsets), "sizes": np.array(sizes)}
    keys = [f"key{i}" for i in range(len(shard_ids))]
    return read_members(
        place, shards=["a.tar", "b.tar", "c.tar"], keys=keys, versions={} if versions is None else versions, **arrays
    )


def test_members_come_in_the_order_asked_for_from_any_shard(place):
    place.write("a.tar", b"0123456789")
    place.write("b.tar", b"abcdefghij")
    assert read(place, [1, 0, 1, 0, 0], [8, 0, 0, 5, 5], [2, 1, 3, 0, 2]) == [b"ij", b"0", b"abc", None, b"56"]
    assert read(place, [], [], []) == []


def test_one_bad_member_does_not_take_its_neighbours_along(place):
    place.write("a.tar", b"0123456789")
    place.write("b.tar", b"abcdefghij")
    items = read(place, [0, 0, 1, 2, 0], [0, 8, 1, 0, 4], [2, 5, 2, 1, 1])
    assert [items[0], items[2], items[4]] == [b"01", b"bc", b"4"]
    short, missing = items[1], items[3]
    assert isinstance(short, BadSampleError)
    assert str(short) == f"{place.uri}/a.tar#key1: the shard is cut short"
    assert isinstance(missing, BadSampleError)
    assert str(missing) == f"{place.uri}/c.tar#key3: the shard is missing"


def test_a_shard_that_was_replaced_while_in_use_is_said_to(place):
    place.write("a.tar", b"0123456789")
    place.write("b.tar", b"abcdefghij")
    versions = {}
    assert read(place, [0, 1, 0], [0, 0, 8], [2, 2, 2], versions) == [b"01", b"ab", b"89"]
    place.write("a.tar", b"9876543210 and more")
    assert read(place, [1], [3], [2], versions) == [b"de"]
    with pytest.raises(UserError, match=f"{place.uri}/a.tar was changed while in use"):
        read(place, [0], [0], [2], versions)
    assert read(place, [0], [0], [2]) == [b"98"]


def test_a_store_that_refuses_is_nobody_s_bad_sample(s3_environment, monkeypatch):
    place = Location.parse(s3_environment.bucket("refusing-members"))
    place.write("a.tar", b"0123456789")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match="access refused"):
        read(place, [0], [0], [1])
