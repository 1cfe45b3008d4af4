"""A plain folder of images and a backbone from elsewhere, by hand of its weights: no label, no pretraining."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import timm
import torch
from fixtures_run import TINY, arguments, load_program, program, result_of, run_job

from luss_ray.nn.weights import WeightsFile
from luss_ray.storage.uri import Location

pytestmark = pytest.mark.e2e
VIT = "test_vit"
CANDIDATES = "--category-candidates=3 4 6 100"
"""100 are more than 120 images can show."""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file as somebody would have trained it, with a classifier."""
    path = tmp_path_factory.mktemp("weights") / "theirs.pth"
    torch.save({"model": timm.create_model(VIT, num_classes=5).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def finished(scenes: Path, theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a finished run's folder and what was printed."""
    folder = tmp_path_factory.mktemp("own-images")
    images = folder / "images"
    images.mkdir()
    for number, image in enumerate(sorted((scenes / "train").rglob("*.jpg"))):
        (images / f"{number}.jpg").write_bytes(image.read_bytes())
    options = (f"--data={images}", f"--storage={folder}", "--name=own", "--num-workers=1 1")
    options += (CANDIDATES, "--clustering.parts-per-cluster=3", *_backbone(theirs))
    return folder / "own", run_job(folder, *options)


def _backbone(weights: Path) -> tuple[str, ...]:
    return f"--weights={weights}", f"--backbone=timm:{VIT}", "--finetune.freeze-backbone"


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
    given = (f"--data={run.parent / 'images'}", f"--storage={run.parent}", "--name=own")
    given = (*TINY, *given, CANDIDATES, "--num-workers=1 1", "--clustering.parts-per-cluster=3")
    refused = program("pass.py", tmp_path, "demo", *arguments(*given, *_backbone(theirs.with_name("missing.pth"))))
    assert refused.returncode == 2 and "no weights at" in refused.stderr
    other = tmp_path / "other.pth"
    torch.save(timm.create_model(VIT, num_classes=0).state_dict(), other)
    refused = program("pass.py", tmp_path, "demo", *arguments(*given, *_backbone(other)))
    assert refused.returncode == 2 and "weights = " in refused.stderr and "another --name" in refused.stderr
