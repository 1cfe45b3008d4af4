"""Own images through a finished model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from fixtures_export import exported
from fixtures_run import program, run_program
from fixtures_s3 import S3Server
from PIL import Image

import luss_ray
from luss_ray.export.segmenter import MODEL
from luss_ray.imagenet_s import masks
from luss_ray.stages.segment import find
from luss_ray.storage.uri import Location


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, whose outputs differ from pixel to pixel."""
    folder = tmp_path_factory.mktemp("run")
    exported(folder / "model", guided_radius=1.0)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A hundred pictures in folders, of several sizes and kinds; two names differ by their suffix alone."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    for number in range(100):
        path = folder / f"{number % 3}" / f"{number:03d}.{('jpg', 'png', 'webp')[number % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 256, (4, 5 + number % 2, 3), np.uint8)
        Image.fromarray(blocks).resize((60 + 10 * (number % 4), 50), Image.Resampling.BICUBIC).save(path)
    shutil.copy(folder / "0" / "000.jpg", folder / "0" / "twin.jpg")
    Image.open(folder / "0" / "003.jpg").save(folder / "0" / "twin.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_every_image_gets_its_labels_and_some_a_page(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = "--model", str(model), "--images", str(images), "--out", str(out), "--num-shown", "12"
    planned = run_program("segment.py", tmp_path, *asked, "--dry-run")
    assert "102 images" in planned and "PFLOP" in planned and "0.3 MB" in planned and not out.exists()
    printed = run_program("segment.py", tmp_path, *asked)
    assert "102 of 102" in printed
    segmenter = luss_ray.load(model)
    for name in ("0/000.jpg", "1/001.png", "2/098.webp"):
        expected = segmenter.predict(images / name)
        found = masks.decode((out / "labels" / Path(name).with_suffix(".png")).read_bytes())
        assert found.shape == expected.shape and (found == expected).mean() > 0.999
    labels = {str(path.relative_to(out / "labels")) for path in (out / "labels").rglob("*.png")}
    assert len(labels) == 102 and {"0/twin.jpg.png", "0/twin.png.png"} <= labels
    page = (out / "index.html").read_text()
    assert page.count("<figure>") == 12 and "notes" not in page
    for stem in ("0000", "0011"):
        assert (out / "overlays" / f"{stem}.webp").exists() and f"overlays/{stem}.webp" in page


def test_it_goes_on_where_it_stopped_and_names_what_it_could_not_read(
    model: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (images / "0" / "000.jpg").write_bytes(b"\xff\xd8\xff broken")
    asked = "--model", str(model), "--images", str(images), "--out", str(out), "--palette", "--num-shown", "0"
    assert "101 of 102" in run_program("segment.py", tmp_path, *asked)
    assert json.loads((out / "unreadable.json").read_text()) == ["0/000.jpg"]
    assert not (out / "index.html").exists()
    kept, lost = out / "labels" / "0" / "003.png", out / "labels" / "2" / "098.png"
    content = lost.read_bytes()
    lost.unlink()
    shutil.copy(images / "0" / "003.jpg", images / "0" / "000.jpg")
    assert "102 of 102" in run_program("segment.py", tmp_path, *asked)
    assert lost.read_bytes() == content and (out / "labels" / "0" / "000.png").exists()
    assert ", 0 of them to do" in run_program("segment.py", tmp_path, *asked, "--dry-run")
    with Image.open(kept) as picture:
        assert picture.mode == "P"
    assert masks.decode(kept.read_bytes()).max() <= 3
    refused = program("segment.py", tmp_path, *asked[:-3])
    assert refused.returncode == 2 and "choose another --out" in refused.stdout + refused.stderr


def test_images_that_were_added_are_segmented_and_other_weights_refused(images: Path, tmp_path: Path) -> None:
    exported(tmp_path / "run")
    for path in sorted(images.rglob("*.*"))[5:]:
        path.unlink()
    out, labels = tmp_path / "out", tmp_path / "out" / "labels"
    asked = "--model", str(tmp_path / "run"), "--images", str(images), "--out", str(out), "--num-shown", "0"
    assert "5 of 5" in run_program("segment.py", tmp_path, *asked)
    before = Location.parse(out).read_table("images.parquet")["image"].to_pylist()
    contents = {path: path.read_bytes() for path in labels.rglob("*.png")}
    first = images / before[0]
    added = [images / "0" / "aaa.jpg", first.with_suffix(".bmp")]
    for path in added:
        Image.open(first).save(path)
    assert "7 images below" in run_program("segment.py", tmp_path, *asked, "--dry-run")
    assert "7 of 7" in run_program("segment.py", tmp_path, *asked)
    after = Location.parse(out).read_table("images.parquet")["image"].to_pylist()
    assert after[:5] == before and len(after) == 7
    assert all(path.read_bytes() == content for path, content in contents.items()), "labels that were there stay"
    assert {path.name for path in labels.rglob("*.png")} - {path.name for path in contents} == {
        "aaa.png",
        f"{added[1].name}.png",
    }
    model = Location.parse(tmp_path / "run")
    state = safetensors.torch.load(model.read(MODEL))
    model.write(MODEL, safetensors.torch.save({name: value * 2 for name, value in state.items()}))
    refused = program("segment.py", tmp_path, *asked)
    assert refused.returncode == 2 and "are of other weights" in refused.stderr and "another --out" in refused.stderr


def test_no_two_images_have_one_label(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "b.png", "b.png.jpg"):
        (tmp_path / name).write_bytes(b"")
    first = find(Location.parse(tmp_path))
    assert list(first.labels) == ["a.png", "b.jpg.png", "b.png.png", "b.png.jpg.png"]
    for name in ("a.png", "a.png.jpg", "0.jpg"):
        (tmp_path / name).write_bytes(b"")
    second = find(Location.parse(tmp_path), first)
    assert list(second.images)[:4] == list(first.images) and list(second.labels)[:4] == list(first.labels)
    assert list(second.images)[4:] == ["0.jpg", "a.png", "a.png.jpg"] and len(set(second.labels)) == 7


def test_bad_input_gets_one_line(model: Path, images: Path, tmp_path: Path) -> None:
    for words, message in [
        ((tmp_path / "no-run", images, tmp_path / "out"), "holds no model"),
        ((model, model, tmp_path / "out"), "no images below"),
        ((model, images, images / "labels"), "lies within --images"),
        ((model, images, images.parent), "keeps its photos"),
    ]:
        asked = [word for pair in zip(("--model", "--images", "--out"), map(str, words), strict=True) for word in pair]
        refused = program("segment.py", tmp_path, *asked)
        assert refused.returncode == 2 and message in refused.stdout + refused.stderr, refused.stdout


def test_labels_of_a_bucket(model: Path, images: Path, s3_environment: S3Server, tmp_path: Path) -> None:
    bucket = Location.parse(s3_environment.bucket("photos-to-segment"))
    for path in sorted(images.rglob("*.*"))[:5]:
        (bucket / "in").write(path.name, path.read_bytes())
    asked = "--model", str(model), "--images", f"{bucket.uri}/in", "--out", f"{bucket.uri}/out", "--num-shown", "3"
    assert "5 of 5" in run_program("segment.py", tmp_path, *asked, environment=s3_environment.environment())
    assert len((bucket / "out").list("labels/")) == 5 and (bucket / "out").exists("index.html")
