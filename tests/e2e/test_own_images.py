"""A plain folder of images and a backbone from elsewhere, by hand of its weights: no label, no pretraining."""

import functools
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import timm
import torch
from fixtures_docs import BLOCK, ROOT, documented, filled_in, type_in
from fixtures_run import TINY, arguments, load_program, program, result_of, run_program
from fixtures_s3 import S3Server

from luss_ray.nn.weights import WeightsFile
from luss_ray.storage.uri import Location

pytestmark = pytest.mark.e2e
VIT = "test_vit"
PAGE = ROOT / "docs" / "own_images.md"
CANDIDATES = "--category-candidates=3 4 6 100"
"""100 are more than 120 images can show."""
_SMALL = arguments(*TINY, "--num-workers=1 1", CANDIDATES, "--clustering.parts-per-cluster=3")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file as somebody would have trained it, with a classifier."""
    path = tmp_path_factory.mktemp("weights") / "theirs.pth"
    torch.save({"model": timm.create_model(VIT, num_classes=5).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def finished(scenes: Path, theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a finished run's folder and what was printed; the command is that of the page, on tiny settings."""
    folder = tmp_path_factory.mktemp("own-images")
    photos(scenes, folder / "my-images")
    printed = run_program("pass.py", folder, *_quick(folder, theirs))
    return folder / "runs" / "quick", printed


def photos(scenes: Path, folder: Path) -> None:
    """Put the training scenes into one plain folder."""
    folder.mkdir()
    for number, image in enumerate(sorted((scenes / "train").rglob("*.jpg"))):
        (folder / f"{number}.jpg").write_bytes(image.read_bytes())


def _quick(home: Path, weights: Path) -> list[str]:
    """Return the words of the documented command that starts from weights."""
    (words,) = (words for _, words in documented(PAGE) if "--weights" in words)
    meant = {"vit_small_patch16_224": VIT, "~": str(home), "dino.pth": str(weights)}
    return [*filled_in(words, meant), *_SMALL]


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_every_command_of_the_pages_works(
    s3_server: S3Server, scenes: Path, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of own images, then those of models, one after the other, as somebody would type them, on tiny settings;
    then what they show of Python."""
    bucket, environment = s3_server.bucket("own-images"), s3_server.environment()
    photos(scenes, tmp_path / "my-images")
    for folder in ("more-images", "photos"):
        (tmp_path / folder).mkdir()
        shutil.copy(tmp_path / "my-images" / "0.jpg", tmp_path / folder)
    s3_server.client().upload_file(str(tmp_path / "photos" / "0.jpg"), "own-images", "photos/0.jpg")
    for part in ("train", "val"):
        with tarfile.open(tmp_path / f"{part}-0.tar", "w") as tar:
            tar.add(tmp_path / "my-images" / "0.jpg", "0.jpg")
        s3_server.client().upload_file(str(tmp_path / f"{part}-0.tar"), "own-images", f"their-shards/{part}-0.tar")
    meant = {"~/segmented": str(tmp_path / "segmented-{place}"), "~": str(tmp_path), "dino.pth": str(theirs)}
    meant |= {"s3://BUCKET": bucket, "runs/demo": "runs/mine", "vit_small_patch16_224": VIT}
    commands = [*documented(PAGE), *documented(PAGE.with_name("models.md"))]
    type_in(commands, tmp_path, meant, more={"jobs/pass.py": _SMALL}, environment=environment)
    assert len(result_of(tmp_path / "runs" / "eight")["pseudo_labels"]["shares"]) == 8
    assert len(list(tmp_path.glob("segmented-*/index.html"))) == 2 and (tmp_path / "contact.html").exists()
    assert (tmp_path / "model.onnx").exists()
    monkeypatch.chdir(tmp_path)
    shutil.copy(tmp_path / "my-images" / "0.jpg", "photo.jpg")
    names: dict[str, Any] = {}
    pages = PAGE.read_text() + PAGE.with_name("models.md").read_text()
    for language, block in BLOCK.findall(pages.replace("runs/demo", "runs/mine")):
        if language == "python":
            exec(block, names)
    assert names["ids"].shape == (names["height"], names["width"]) == (48, 48)
    assert names["logits"].shape[1] == len(names["model"].names)


def test_clusters_are_shown_instead_of_scores(finished: tuple[Path, str]) -> None:
    run, printed = finished
    result, clusters = result_of(run), Location.parse(run / "clusters")
    merged = safetensors.numpy.load((clusters / "centroids.safetensors").read())["clusters"]
    estimated = result["stages"]["estimate"]
    num, silhouettes = estimated["chosen"], estimated["silhouettes"]
    assert set(silhouettes) == {"3", "4", "6"} and silhouettes[str(num)] == max(silhouettes.values())
    assert len(merged) == 3 * num and set(merged.tolist()) == set(range(num))
    assert f"{num} taken" in (run / "report.html").read_text()
    found = clusters.read_json("clusters.json")
    assert len(found["sizes"]) == len(found["margins_by_cluster"]) == num and sum(found["sizes"]) == 120
    assert len(found["history"]) == 5 and len(found["dropped_at"]) == 2
    assert "chosen by the attention alone, label-free" in printed
    assert result["metrics"] == {} and result["threshold"]["used"] == "label-free"
    assert "no masks to score with" in printed


def test_the_weights_take_the_place_of_pretraining(finished: tuple[Path, str], theirs: Path, tmp_path: Path) -> None:
    """The projection head, which they lack, learns with the attention; a frozen backbone stays as it was brought."""
    run, _ = finished
    about: dict[str, Any] = result_of(run)["weights"]
    assert about["uri"] == str(theirs) and "not known" in about["trained_by"] and len(about["sha256"]) == 64
    stages = ("pretrain", "attention", "finetune")
    left = {stage: WeightsFile(Location.parse(run / stage / "weights.safetensors"))() for stage in stages}
    assert left["pretrain"] and not any(name.startswith("projection_head") for name in left["pretrain"])
    for name, value in left["pretrain"].items():
        assert torch.equal(value, left["attention"][name]) and torch.equal(value, left["finetune"][name])
    assert any(name.startswith("projection_head") for name in left["attention"])
    convert = load_program("jobs/convert.py")
    convert.main(convert.Options(source=str(run), out=str(tmp_path / "back.pth")))
    back, original = (torch.load(path, weights_only=True) for path in (tmp_path / "back.pth", theirs))
    assert back and all(torch.equal(value, original["model"][name]) for name, value in back.items())


def test_the_same_name_with_other_weights_is_refused(finished: tuple[Path, str], theirs: Path, tmp_path: Path) -> None:
    run, _ = finished
    asked = functools.partial(_quick, run.parents[1])
    refused = program("pass.py", run.parents[1], *asked(theirs.with_name("missing.pth")))
    assert refused.returncode == 2 and "no weights at" in refused.stderr
    other = tmp_path / "other.pth"
    torch.save(timm.create_model(VIT, num_classes=0).state_dict(), other)
    refused = program("pass.py", run.parents[1], *asked(other))
    assert refused.returncode == 2 and "weights = " in refused.stderr and "another --name" in refused.stderr
