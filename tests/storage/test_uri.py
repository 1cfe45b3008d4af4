import hashlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luss_ray.core.errors import UserError
from luss_ray.storage.uri import Location


def test_local_paths_become_absolute_and_name_the_same_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = Location.parse("data/set")
    assert relative == Location.parse(tmp_path / "data" / "set") == Location.parse(f"file://{tmp_path}/data/set/")
    assert relative.is_local
    assert relative.local_path == tmp_path / "data" / "set"
    assert Location.parse(relative.uri) == relative


def test_s3_uris_are_normalised_and_survive_a_round_trip(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    location = Location.parse("s3://bucket//a//b/")
    assert location.uri == "s3://bucket/a/b"
    assert Location.parse(location.uri) == location
    assert Location.parse("s3://bucket").uri == "s3://bucket"
    assert (location / "c/d").uri == location.child("c", "d").uri == "s3://bucket/a/b/c/d"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gs://user:hunter2@bucket/x", "unknown kind of URI gs://"),
        ("https://bucket.s3.amazonaws.com/x?X-Amz-Signature=hunter2", "unknown kind of URI https://"),
        ("s3:/bucket/x", "two slashes"),
        ("s3://", "not a bucket name"),
        ("s3://UPPER/x", "not a bucket name"),
        ("s3://key:hunter2@bucket/x", "keys do not belong"),
        ("s3://bucket/../other", "plain prefix"),
        ("", "empty URI"),
    ],
)
def test_bad_uris_are_told_in_one_line_without_secrets(text, expected):
    with pytest.raises(UserError, match=expected) as caught:
        Location.parse(text)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_object_is_what_was_written(place):
    assert place.list() == []
    assert not place.exists("a/x")
    place.write("a/x", b"one")
    place.write("a/x", b"three")
    place.write("a-b/y.bin", b"yes")
    assert place.read("a/x") == place.child("a", "x").read() == b"three"
    assert place.size_bytes("a/x") == 5
    assert place.exists("a/x")
    assert not place.exists("a")
    assert place.list() == ["a-b/y.bin", "a/x"]
    assert place.list("a") == ["a/x"], "a prefix is a folder"
    assert place.list(suffix=".bin") == ["a-b/y.bin"]


@pytest.mark.parametrize("name", ["with space/ü.bin", "a%20b", "x~y+z&=,@", "{braces}[0]"])
def test_names_with_odd_letters_come_back_as_they_are(place, name):
    place.write(name, b"1")
    assert place.list() == [name]
    assert place.read(name) == b"1"


def test_a_copy_is_an_object_of_its_own(place, tmp_path):
    data = bytes(range(256)) * 40_000
    for source in (place / "there", Location.parse(tmp_path / "elsewhere")):
        source.write("deep/x", data)
        copy = place / "here"
        copy.write("deep/x", b"older")
        copy.copy_from(source, "deep/x")
        source.write("deep/x", b"changed")
        assert copy.read("deep/x") == data
        with pytest.raises(FileNotFoundError, match="deep/y"):
            copy.copy_from(source, "deep/y")


def test_ranges_come_in_the_order_asked_for(place):
    data = bytes(range(256)) * 8000
    place.write("x", data)
    starts, lengths = [1_500_000, 0, 77, 76, 2_047_999], [1000, 1, 300_000, 2, 1]
    assert place.read_ranges("x", starts, lengths).data == [
        data[s : s + n] for s, n in zip(starts, lengths, strict=True)
    ]
    assert place.read_range("x", 3, 4) == data[3:7]


_DATA = bytes(range(256)) * 8192


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(_DATA) - 1), st.integers(1, 600_000)), max_size=10))
def test_any_ranges_are_slices(tmp_path, ranges):
    place = Location.parse(tmp_path)
    place.create("x", _DATA)
    ranges = [(start, min(length, len(_DATA) - start)) for start, length in ranges]
    found = place.read_ranges("x", [start for start, _ in ranges], [length for _, length in ranges]).data
    assert found == [_DATA[start : start + length] for start, length in ranges]


@pytest.mark.parametrize(("start", "length"), [(8, 5), (10, 1), (1000, 10)])
def test_a_range_beyond_the_end_is_an_error_never_a_short_answer(place, start, length):
    place.write("x", b"0123456789")
    with pytest.raises(EOFError, match="ends before"):
        place.read_range("x", start, length)
    with pytest.raises(EOFError, match="ends before"):
        place.read_ranges("x", [start, 0, start + 50], [length, 2, length])


def test_nothing_exists_below_a_file(place):
    place.write("file", b"1")
    assert not place.exists("file/run.json")
    with pytest.raises(FileNotFoundError, match=r"file/run\.json does not exist"):
        place.read("file/run.json")


def test_a_missing_object_is_named_by_its_full_uri(place):
    for call in (place.read, place.size_bytes, lambda name: place.read_range(name, 0, 1), place.read_json):
        with pytest.raises(FileNotFoundError, match=place.child("no/such").uri):
            call("no/such")


def test_deleting_is_idempotent(place):
    place.write("a/x", b"1")
    place.write("a/b/y", b"1")
    place.write("ab/z", b"1")
    place.delete("ab/nothing")
    place.delete_prefix("a")
    place.delete_prefix("a")
    assert place.list() == ["ab/z"]
    place.delete("ab/z")
    place.delete("ab/z")
    assert place.list() == []


def test_of_sixteen_racing_creates_exactly_one_wins(place):
    def create(number: int) -> bool:
        return place.create("shard.tar", bytes([number]) * 3_000_000)

    with ThreadPoolExecutor(16) as threads:
        won = list(threads.map(create, range(16)))
    assert won.count(True) == 1
    assert place.read("shard.tar") == bytes([won.index(True)]) * 3_000_000
    assert place.list() == ["shard.tar"]
    assert not place.create("shard.tar", b"later")


def _create_in_process(place: Location, number: int, barrier, queue) -> None:
    barrier.wait()
    queue.put(place.create("shard.tar", bytes([number]) * 1_000_000))


def test_racing_processes_have_one_winner_too(place):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_create_in_process, args=(place, i, barrier, queue)) for i in range(3)]
    for process in processes:
        process.start()
    assert sorted(queue.get(timeout=60) for _ in processes) == [False, False, True]
    for process in processes:
        process.join()


def test_create_takes_a_file(place, tmp_path):
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(7_000_000))
    assert place.create("big", path)
    assert hashlib.sha256(place.read("big")).digest() == hashlib.sha256(path.read_bytes()).digest()


_WRITER = """
import sys, threading
from luss_ray.storage.uri import Location
place = Location.parse(sys.argv[1])
place.write("started", b"1")
threading.Thread(target=lambda: place.create("half.tar", bytes(400_000_000))).start()
print("go", flush=True)
"""


@pytest.mark.chaos
@pytest.mark.parametrize("delay_s", [0.02, 0.15])
def test_a_writer_killed_in_the_middle_leaves_nothing_readable(place, delay_s):
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, place.uri], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"go\n"
    time.sleep(delay_s)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    if place.exists("half.tar"):
        assert place.size_bytes("half.tar") == 400_000_000, "there is all of it or nothing"
    else:
        assert place.list() == ["started"]
        assert place.create("half.tar", b"the next one")


def test_locations_travel_between_processes_without_clients(place):
    place.write("x", b"1")
    data = pickle.dumps(place)
    assert len(data) < 300
    assert b"secret" not in data
    assert hash(pickle.loads(data)) == hash(place)
    assert pickle.loads(data).read("x") == b"1"


def test_json_and_tables_round_trip(place):
    place.write_json("x.json", {"name": "Übung", "values": [1, 2.5, None]})
    assert place.read_json("x.json") == {"name": "Übung", "values": [1, 2.5, None]}
    table = pa.table({"key": ["a", "b"], "offset": pa.array([1, 2**40], pa.int64())})
    assert place.create_table("t.parquet", table)
    assert not place.create_table("t.parquet", table)
    assert place.read_table("t.parquet").equals(table)


def test_damaged_json_and_tables_are_user_errors(place):
    place.write("x", b"{ half")
    with pytest.raises(UserError, match="not valid JSON"):
        place.read_json("x")
    with pytest.raises(UserError, match="not a readable Parquet"):
        place.read_table("x")


def test_check_writable_leaves_nothing(place):
    place.check_writable()
    assert place.list() == []


def test_a_name_can_not_leave_its_location(tmp_path: Path):
    with pytest.raises(UserError, match="leads out of"):
        Location.parse(tmp_path).child("../elsewhere")
