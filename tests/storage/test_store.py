import os
import resource
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from fixtures_disk import tiny_disk

from luss_ray.core.errors import UserError
from luss_ray.storage import store
from luss_ray.storage.lease import lease
from luss_ray.storage.uri import Location

_SECRET = "hunter2hunter2"


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert _SECRET not in text
    assert error.value.__cause__ is None, "what the store answered stays out of tracebacks"
    assert error.value.__suppress_context__
    return text


@pytest.mark.usefixtures("no_credentials")
def test_s3_without_credentials_names_the_variables_at_once():
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        Location.parse("s3://bucket/prefix")
    text = str(caught.value)
    assert "s3://bucket/prefix" in text
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        assert variable in text
    assert "\n" not in text
    assert time.monotonic() - started < 20


def test_keys_of_a_profile_are_found(no_credentials, monkeypatch, s3_server):
    values = s3_server.environment()
    secret = values["AWS_SECRET_ACCESS_KEY"]
    lines = ["[team]", f"aws_access_key_id={values['AWS_ACCESS_KEY_ID']}", f"aws_secret_access_key={secret}"]
    (no_credentials / "credentials").write_text("\n".join(lines))
    bucket = s3_server.bucket(f"test-{uuid.uuid4().hex[:12]}")
    monkeypatch.setenv("AWS_PROFILE", "team")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    place = Location.parse(bucket)
    place.write("x", b"1")
    assert place.read("x") == b"1"


@pytest.mark.parametrize("call", ["write", "create", "read", "list", "check_writable"])
def test_wrong_keys_are_refused_in_one_line_without_secrets(s3_environment, monkeypatch, call):
    bucket = s3_environment.bucket(f"test-{uuid.uuid4().hex[:12]}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", _SECRET)
    place = Location.parse(bucket)
    arguments = {"write": ("x", b"1"), "create": ("x", b"1"), "read": ("x",)}.get(call, ())
    with pytest.raises(UserError, match="access refused") as caught:
        getattr(place, call)(*arguments)
    assert bucket in one_line(caught)
    assert "AWS_ACCESS_KEY_ID" in one_line(caught)


def test_clients_follow_the_environment(s3_environment, monkeypatch):
    place = Location.parse(s3_environment.bucket(f"test-{uuid.uuid4().hex[:12]}"))
    place.write("x", b"1")
    with monkeypatch.context() as changed:
        changed.setenv("AWS_SECRET_ACCESS_KEY", _SECRET)
        with pytest.raises(UserError):
            place.read("x")
    assert place.read("x") == b"1"
    assert store.open_store(place.bucket) is store.open_store(place.bucket), "one client a process"


@pytest.mark.usefixtures("s3_environment")
def test_a_bucket_that_does_not_exist_is_said_to():
    place = Location.parse("s3://no-such-bucket-here/x")
    for call in (place.list, place.check_writable, lambda: place.read("x")):
        with pytest.raises(UserError, match="the bucket does not exist") as caught:
            call()
        one_line(caught)


def test_a_dead_endpoint_is_named(s3_environment, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setitem(store._RETRIES, "max_retries", 1)
    with pytest.raises(UserError, match=r"no connection to http://127\.0\.0\.1:9") as caught:
        Location.parse("s3://bucket/x").read("y")
    one_line(caught)


def test_a_folder_below_a_file_can_not_be_written(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="is a file, not a folder") as caught:
        (Location.parse(tmp_path) / "file/folder").check_writable()
    one_line(caught)


_LIMITED = """
import sys
from luss_ray.core.command import run
from luss_ray.storage.uri import Location
run(lambda: Location.parse(sys.argv[1]).{call}("big.bin", bytes(3_000_000)))
"""


@pytest.mark.parametrize("call", ["write", "create"])
def test_a_write_that_hits_the_size_limit_leaves_nothing(tmp_path: Path, call):
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED.format(call=call), str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot write {tmp_path}/big.bin: the file size limit")
    assert done.stderr.count("\n") == 1
    assert Location.parse(tmp_path).list() == []


@pytest.mark.parametrize("call", ["write", "create"])
def test_a_full_disk_is_said_to_be_full_and_old_content_stays(tmp_path: Path, call):
    with tiny_disk(tmp_path / "disk", "1m") as disk:
        place = Location.parse(disk)
        place.write("old", b"old")
        with pytest.raises(UserError, match="no space left on device") as caught:
            getattr(place, call)("old" if call == "write" else "new", bytes(3_000_000))
        one_line(caught)
        assert place.list() == ["old"]
        assert place.read("old") == b"old"
        assert place.create("small", b"1"), "a failed write gives its space back"


def test_a_write_whose_answer_never_came_is_done_once(slow_store, s3_environment):
    slow_store.delay_s = 0
    place = Location.parse(s3_environment.bucket("cut-off"))
    for number, name in enumerate(("a", "b")):
        slow_store.num_to_cut_off = number + 1
        place.create(name, b"mine")
        assert slow_store.num_to_cut_off == 0
    slow_store.num_to_cut_off = 1
    assert not place.create("a", b"another writer's")
    assert [place.read(name) for name in place.list()] == [b"mine", b"mine"]


def test_a_lease_whose_answer_never_came_is_held(slow_store, s3_environment):
    slow_store.delay_s = 0
    place = Location.parse(s3_environment.bucket("cut-off-lease"))
    slow_store.num_to_cut_off = 1
    with lease(place) as held:
        assert slow_store.num_to_cut_off == 0
        held.check()
    assert place.list() == []


def test_requests_that_may_be_repeated_are(slow_store, s3_environment):
    slow_store.delay_s = 0
    place = Location.parse(s3_environment.bucket("cut-off-too"))
    calls = {
        "write": lambda: place.write("a", b"1"),
        "read": lambda: place.read("a"),
        "ranges": lambda: place.read_ranges("a", [0], [1]).data,
        "list": place.list,
        "copy": lambda: (place / "copies").copy_from(place, "a"),
        "delete": lambda: place.delete("a"),
        "delete all": lambda: place.delete_prefix("copies"),
    }
    answers = {}
    for name, call in calls.items():
        slow_store.num_to_cut_off = 2
        answers[name] = call()
        assert slow_store.num_to_cut_off == 0
    assert answers["read"] == b"1" and answers["ranges"] == [b"1"] and answers["list"] == ["a"]
    assert place.list() == []


@pytest.mark.parametrize("name", ["t\tab.jpg", os.fsdecode(b"\xff.jpg")], ids=["control character", "not UTF-8"])
def test_a_name_that_is_not_kept_is_told_at_once(tmp_path, name):
    for present in ("ok.jpg", name):
        (tmp_path / present).touch()
    started = time.monotonic()
    with pytest.raises(
        UserError, match=r"cannot list .*: a name has characters that are not kept .*: rename '"
    ) as error:
        Location.parse(tmp_path).list()
    one_line(error)
    assert time.monotonic() - started < 20
    with pytest.raises(UserError, match="cannot read"):
        Location.parse(tmp_path).read("t\tab.jpg")
