"""The three programs of `shards/` as a user runs them."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from fixtures_disk import resize_disk, tiny_disk
from PIL import Image

_ROOT = Path(__file__).parents[2]


def program(name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, _ROOT / "shards" / f"{name}.py", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_refused(done: subprocess.CompletedProcess[str], expected: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr


def test_build_verify_and_show(make_layout, place, tmp_path):
    root = make_layout()
    (root / "train/cat/cat_0.JPEG").write_bytes(b"broken")
    built = program("build", "--source", root, "--out", place.uri, "--images-per-shard", 10)
    assert built.returncode == 0, built.stderr
    assert "left out: train/cat/cat_0.JPEG: not an image" in built.stdout
    assert "train: 23 images in 3 shards" in built.stdout
    assert "validation: 6 images, 6 with masks in 1 shard," in built.stdout
    verified = program("verify", place.uri)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "29 samples in 4 shards: all good" in verified.stdout
    for sheet in (tmp_path / "contact.png", tmp_path / "contact.html"):
        shown = program("show", place.uri, "--out", sheet)
        assert shown.returncode == 0, shown.stderr
        assert "3 categories; images each in train: 7 to 8, median 8" in shown.stdout
        assert sheet.stat().st_size > 10_000
    with Image.open(tmp_path / "contact.png") as image:
        image.load()
    place.write("train/000001.tar", place.read("train/000001.tar")[:-9000])
    broken = program("verify", place.uri)
    assert broken.returncode == 1
    assert f"broken: {place.uri}/train/000001.tar" in broken.stdout


def test_a_plain_folder_is_packed_made_smaller_and_shown(make_layout, tmp_path):
    out = tmp_path / "out"
    built = program("build", "--source", make_layout() / "train/fish", "--out", out, "--max-side", 20)
    assert built.returncode == 0, built.stderr
    shown = program("show", out, "--out", tmp_path / "sheet.png")
    assert "no categories: unlabelled images" in shown.stdout
    assert "15..15..15" in shown.stdout
    assert (tmp_path / "sheet.png").exists()


def test_what_the_user_got_wrong_is_one_line_and_code_2(make_layout, tmp_path):
    root = make_layout()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    assert_refused(program("build", "--source", tmp_path / "no", "--out", tmp_path / "out"), "is not a folder")
    assert_refused(program("build", "--source", tmp_path / "empty", "--out", tmp_path / "out"), "no images in")
    assert_refused(program("build", "--source", root, "--out", tmp_path / "file" / "x"), "is a file, not a folder")
    assert_refused(program("build", "--source", root, "--out", "gs://a/b"), "unknown kind of URI")
    assert_refused(program("verify", tmp_path / "out"), "no dataset at")
    assert_refused(program("show", tmp_path / "out", "--out", "sheet.jpg"), "ends in .png or .html")
    assert not (tmp_path / "out").exists()
    unknown = program("build", "--source", root, "--out", tmp_path / "out", "--bogus")
    assert unknown.returncode == 2
    assert "--bogus" in unknown.stderr


@pytest.mark.chaos
def test_a_disk_that_fills_up_leaves_no_dataset_and_with_more_space_packing_goes_on(make_layout, tmp_path):
    with tiny_disk(tmp_path / "disk", "16k") as disk:
        build = ("build", "--source", make_layout(), "--out", disk / "data", "--images-per-shard", 10)
        assert_refused(program(*build), "no space left on device")
        assert_refused(program("verify", disk / "data"), "no dataset at")
        resize_disk(disk, "10m")
        assert program(*build).returncode == 0
        assert "all good" in program("verify", disk / "data").stdout


def test_s3_without_or_with_wrong_keys_is_one_line(make_layout, s3_server, tmp_path, monkeypatch):
    root, bucket = make_layout(), s3_server.bucket(f"test-{uuid.uuid4().hex[:12]}")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    nothing = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    assert_refused(program("build", "--source", root, "--out", bucket, **nothing), "AWS_SECRET_ACCESS_KEY")
    wrong = {**s3_server.environment(), "AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}
    refused = program("build", "--source", root, "--out", bucket, **wrong)
    assert_refused(refused, "access refused")
    assert "hunter2" not in refused.stdout + refused.stderr


@pytest.mark.parametrize("name", ["build", "verify", "show"])
def test_help_explains_every_option(name):
    done = program(name, "--help")
    assert done.returncode == 0
    assert "s3://bucket/prefix" in done.stdout
